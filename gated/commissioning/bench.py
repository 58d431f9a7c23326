"""A gate's parts, claimed and tried one by one.

An output is on for a moment only, and off before anything is asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from gated.build import scanner
from gated.commissioning.steps import steps
from gated.commissioning.talk import Talk
from gated.config import Config, ScannerConfig
from gated.contacts import SETTLE
from gated.core.barcode import Read
from gated.core.commissioning import (
    NO_END,
    TEST_CODE,
    Change,
    Found,
    InputStep,
    OutputStep,
    Result,
    ScannerStep,
    Step,
    judge_contact,
    judge_scan,
)
from gated.errors import PinError
from gated.pins import Input, Normally, Output, Pins
from gated.scanners import Scanner, ScannerState

_AT_REST = 0.1  # seconds that a contact is normal again before it is done with: longer than any bounce
_LOOK_EVERY = 0.05  # seconds between looks at what has come
_FOUND_WITHIN = 5.0  # seconds for a scanner to be opened: it is looked for every second
# A keyboard that is slower than this types nothing that anybody would wait for.
_SLOWEST = timedelta(seconds=2)

Verdict = tuple[Found, str]


def _now() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class _Watched:
    """A contact and its changes since the last look."""

    contact: Input
    changes: list[Change]


class Bench:
    """A gate's parts, claimed to be tested one by one."""

    def __init__(
        self,
        config: Config,
        pins: Pins,
        talk: Talk,
        open_scanner: Callable[[ScannerConfig], Scanner] = scanner,
    ) -> None:
        """Claims inputs, then outputs at their safe level. Raises PinError."""
        self._config = config
        self._talk = talk
        self._open_scanner = open_scanner
        self.steps = steps(config)
        self._inputs = {each.pin: _watch(pins, each) for each in self.steps if isinstance(each, InputStep)}
        self._outputs: dict[int, Output] = {
            each.pin: pins.output(each.pin, active_high=each.active_high)
            for each in self.steps
            if isinstance(each, OutputStep)
        }
        self.results: list[Result] = []

    async def run(self) -> None:
        """Goes through all steps; ``results`` grows by one with each. Raises BrokenOff."""
        for number, step in enumerate(self.steps, 1):
            self._talk.tell(f"\n[{number}/{len(self.steps)}] {step.part} ({step.where})")
            self.results.append(await self._until_content(step))

    def all_results(self) -> list[Result]:
        """A result for every part: those that were not reached are skipped."""
        rest = self.steps[len(self.results) :]
        return self.results + [
            Result(step.part, step.where, Found.SKIPPED, "broken off before") for step in rest
        ]

    async def _until_content(self, step: Step) -> Result:
        """Tries a part, and again for as long as somebody wants to."""
        while True:
            result = await self._try(step)
            self._talk.tell(f"  {result.found}{f': {result.note}' if result.note else ''}")
            if result.found is not Found.FAILED or self._talk.alone:
                return result
            if await self._talk.ask("  Enter goes on, r tries it again", "gr") == "g":
                return result

    async def _try(self, step: Step) -> Result:
        try:
            match step:
                case OutputStep():
                    found, note = await self._try_output(step)
                case InputStep():
                    found, note = await self._try_input(step)
                case ScannerStep():
                    found, note = await self._try_scanner(step)
        except PinError as error:
            found, note = Found.FAILED, str(error)
        return Result(step.part, step.where, found, note)

    async def _try_output(self, step: OutputStep) -> Verdict:
        if not self._talk.alone:
            question = f"  Expect: {step.expect}. Enter drives it, s skips"
            if await self._talk.ask(question, "gs") == "s":
                return Found.SKIPPED, ""
        while True:
            note = f"on for {await self._drive(step) * 1000:.0f} ms"
            if self._talk.alone:
                return Found.UNWATCHED, note
            answer = await self._talk.ask("  Was it so? Enter or y: yes, n: no, r: again", "ynr")
            if answer != "r":
                return (Found.WORKS, note) if answer == "y" else (Found.FAILED, f"{note}, but not seen")

    async def _drive(self, step: OutputStep) -> float:
        """Energises an output for a while; returns how long in seconds. Raises PinError."""
        output = self._outputs[step.pin]
        begun = _now()
        try:
            output.write(True)
            output.confirm()
            await asyncio.sleep(step.on.total_seconds())
        finally:
            output.write(False)
        lasted = _now() - begun
        output.confirm()
        return lasted

    async def _try_input(self, step: InputStep) -> Verdict:
        watched = self._inputs[step.pin]
        if watched.contact.active:
            return Found.FAILED, "active although nobody touches it: check the wire, and normally"
        if self._talk.alone:
            return Found.SKIPPED, "normal at rest"
        seconds = step.within.total_seconds()
        self._talk.tell(f"  {step.act}, within {seconds:.0f} s. Enter skips")
        watched.changes.clear()
        shown, until = False, _now() + seconds
        while _now() < until:
            if self._talk.skipped():
                return Found.SKIPPED, ""
            if watched.contact.active is not shown:
                shown = not shown
                self._talk.tell(f"  … {'active' if shown else 'normal'}")
            if not shown and watched.changes and _now() - watched.changes[-1][1] > _AT_REST:
                found, note = judge_contact(watched.changes, SETTLE)
                return found, f"{note}; {step.warning}" if step.warning else note
            await asyncio.sleep(_LOOK_EVERY)
        stuck = "it stayed active" if shown else "it never became active"
        return Found.FAILED, f"{stuck} in {seconds:.0f} s"

    async def _try_scanner(self, step: ScannerStep) -> Verdict:
        config = self._config.lanes[step.lane].scanners[step.scanner]
        found = await self._listen(step, config)
        if found[1] != NO_END or self._talk.alone:
            return found
        # The end may have come too late for the configured silence: with more patience it shows.
        self._talk.tell("  Characters came, but no whole code. Please scan it once more")
        patient, _ = await self._listen(step, replace(config, character_timeout=_SLOWEST))
        if patient is Found.WORKS:
            waits = config.character_timeout / timedelta(milliseconds=1)
            return Found.FAILED, f"it types too slowly for character_timeout_ms = {waits:.0f}: raise that"
        return Found.FAILED, NO_END

    async def _listen(self, step: ScannerStep, config: ScannerConfig) -> Verdict:
        """Opens a scanner and waits for the test code."""
        async with _reading(self._open_scanner(config)) as heard:
            if not await heard.found():
                return Found.FAILED, f"it can't be read: {heard.why}"
            if self._talk.alone:
                return Found.SKIPPED, "it can be read"
            seconds = step.within.total_seconds()
            self._talk.tell(f"  Scan a code that says {TEST_CODE}, within {seconds:.0f} s. Enter skips")
            until = _now() + seconds
            while _now() < until:
                if self._talk.skipped():
                    return Found.SKIPPED, ""
                if (judged := heard.judged()) is not None:
                    return judged
                await asyncio.sleep(_LOOK_EVERY)
        return Found.FAILED, f"nothing came in {seconds:.0f} s"


def _watch(pins: Pins, step: InputStep) -> _Watched:
    changes: list[Change] = []
    normally = Normally.CLOSED if step.normally_closed else Normally.OPEN
    contact = pins.input(
        step.pin, normally=normally, on_change=lambda active, at: changes.append((active, at))
    )
    return _Watched(contact, changes)


@dataclass(slots=True)
class _Heard:
    """What a scanner has said so far."""

    scanner: Scanner
    state: ScannerState | None = None
    why: str = "it was not found"
    reads: list[Read] = field(default_factory=list)
    _reads_at_all: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, state: ScannerState, why: str) -> None:
        self.state, self.why = state, why
        if state is ScannerState.READING:
            self._reads_at_all.set()

    async def found(self) -> bool:
        """Whether it can be read, soon."""
        try:
            async with asyncio.timeout(_FOUND_WITHIN):
                await self._reads_at_all.wait()
        except TimeoutError:
            return False
        return True

    def judged(self) -> Verdict | None:
        """What came of it; None while there is nothing to judge."""
        if self.reads:
            why = judge_scan(self.reads[0])
            return (Found.FAILED, why) if why else (Found.WORKS, "read to the letter")
        if self.scanner.partials:
            return Found.FAILED, NO_END
        return (Found.FAILED, f"it was lost: {self.why}") if self.state is ScannerState.LOST else None


@asynccontextmanager
async def _reading(scanner: Scanner) -> AsyncIterator[_Heard]:
    heard = _Heard(scanner)
    scanner.start(lambda read, _: heard.reads.append(read), heard.tell)
    try:
        yield heard
    finally:
        await scanner.close()
