"""A running lane: scanners and contacts in, decisions by the store, effects on barrier, lamps and buzzer.

What the lane does is decided in :mod:`gated.core.passage`; this carries it out. A release that is due comes
before everything else that a verdict brings: the log line, the lamps' next blink, the upload.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from gated import log
from gated.asking import Asker
from gated.clock import Clock, new_scan_id
from gated.contacts import Contact
from gated.core import events, passage
from gated.core.barcode import Barcode, Read
from gated.core.events import LaneRules, State
from gated.core.own_signals import Signals
from gated.core.scan import LaneName, Scan
from gated.core.signals import Lamp, Outcome
from gated.core.verdict import Origin, Reason, deny
from gated.deadline import Deadline
from gated.errors import PinError, StoreError
from gated.interlock import Interlock
from gated.pins import Output
from gated.pins.player import Light, Player
from gated.scanners import Scanner, ScannerState
from gated.store import Ask, Decided, Passage, Store, Terms

# What may release a barrier that is shared, the strongest claim to wait for it last.
_NEEDS_TURN: tuple[type[events.Event], ...] = (
    events.MalformedRead,
    events.BarcodeRead,
    events.OperatorReleased,
)
# A verdict within so many seconds is instant for a person: "one moment" would be a flicker.
_AT_ONCE_S = 0.05
# Reads a second that a lane looks at. A scanner in front of which a phone is held still reads it up to 60
# times a second, and there may be two; one that types as fast as it can must keep no other lane waiting.
_MOST_A_SECOND = 200
# Seconds from the end of a pulse to the next that something malformed may bring: a line full of noise
# releases an exit again and again, and its relay must not chatter, the journal not fill, no lane wait for it.
_AFTER_NOISE_S = 0.2
# With so many scans under way at the store, as a scanner gone mad brings or a disk that stalls, a lane takes
# a read no sooner than this many seconds after another: the scans of all lanes stand in one queue. People do
# not scan faster, and an exit has to open for each of them.
_MANY_UNDER_WAY, _APART_S = 8, 0.25
# Seconds that a stop waits for verdicts on their way, and again for what they bring to be written.
_CLOSE_S = 2.0
# Admissions whose end may still be told: the standing grant, and those just before it.
_REMEMBERED = 8

_CAME = {
    events.Came.TAKEN: Passage.TAKEN,
    events.Came.NOT_TAKEN: Passage.NOT_TAKEN,
    events.Came.UNKNOWN: Passage.UNKNOWN,
}

Changed = Callable[[LaneName, str, Mapping[str, object]], None]
"""Told at which lane what happened (``shown``, ``barrier``, ``scan``), for whoever watches."""


class Barrier:
    """The output that releases a barrier: in pulses, or held."""

    def __init__(
        self,
        output: Output,
        pulse: timedelta | None,
        changed: Callable[[bool], None],
        pulse_ended: Callable[[], None],
    ) -> None:
        """``pulse`` is None for a barrier that is held; whoever is told that one ended is to relock."""
        self._output = output
        self._pulse = pulse
        self._changed = changed
        self._pulse_ended = pulse_ended
        self._timer: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Energises the output. Raises PinError, also where the line does not follow."""
        self._stop_timer()
        self._output.write(True)
        if self._pulse is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pulse.total_seconds(), self._pulse_ended)
        self._changed(True)
        self._output.confirm()

    def relock(self) -> None:
        """De-energises the output. Raises PinError, also where the line does not follow."""
        self._stop_timer()
        if self._output.active:
            self._output.write(False)
            self._changed(False)
            self._output.confirm()

    def confirm(self) -> None:
        """Raises PinError if the line is not as it was last driven."""
        self._output.confirm()

    @property
    def released(self) -> bool:
        """Whether the output is energised."""
        return self._output.active

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a lane is built of."""

    release: Output
    lamps: Mapping[Lamp, Output]
    buzzer: Output | None
    scanners: tuple[Scanner, ...]
    rgb: Mapping[Lamp, Light] = field(default_factory=dict)
    """The colours of an RGB lamp, if there is one."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What the lanes of a gate share."""

    store: Store
    asker: Asker
    clock: Clock
    changed: Changed


@dataclass(frozen=True, slots=True)
class Setting:
    """What a lane is, by the configuration."""

    name: LaneName
    rules: LaneRules
    pulse: timedelta
    ticket_types: frozenset[str]
    ask_known: bool
    """The direct strategy."""
    ask_unknown: bool
    interlock: Interlock | None = None
    """Set where the lane shares its barrier and takes turns."""
    signals: Signals = field(default_factory=Signals)


@dataclass(slots=True)
class _Scanners:
    """Which scanners can be read, and why the others can't."""

    states: dict[str, tuple[ScannerState, str]] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        return all(state is ScannerState.LOST for state, _ in self.states.values())


class RunningLane:
    """One lane of the gate."""

    def __init__(self, setting: Setting, equipment: Equipment, gate: Gate) -> None:
        self.setting = setting
        self._scanners = equipment.scanners
        self._store = gate.store
        self._asker = gate.asker
        self._clock = gate.clock
        self._changed = partial(gate.changed, setting.name)
        self._log = log.get("lane").bind(lane=setting.name)
        self._lane = events.Lane()
        pulse = setting.pulse if setting.rules.profile is events.Profile.PULSE else None
        self._barrier = Barrier(
            equipment.release,
            pulse,
            changed=lambda on: self._changed("barrier", {"released": on}),
            pulse_ended=lambda: self._drive(self._barrier.relock),
        )
        loop = asyncio.get_running_loop()
        self._players = (
            Player(equipment.lamps, equipment.buzzer, loop, self._lamp_failed),
            Player(equipment.rgb, None, loop, self._lamp_failed),
        )
        self._timer = Deadline(self._timer_ended)
        self._admitted: dict[int, int] = {}  # decision number -> journal number, of the latest few
        self._read_at: float | None = None  # when the read being fed was made
        self._second, self._reads = 0, 0  # how many reads came in this second of the loop
        self._taken_at = float("-inf")  # when the last read was taken
        self._malformed_at = float("-inf")  # and the last malformed one
        self._ignored = 0  # reads, since the last that was taken
        self._at_store = 0  # scans that have not come back from there
        self._all_back = asyncio.Event()  # set when the last of them has
        self._next: events.Event | None = None  # waits for the lane's turn at a shared barrier
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = _Scanners(
            {scanner.name: (ScannerState.LOST, "not found yet") for scanner in self._scanners}
        )
        self._contacts: tuple[Contact, ...] = ()
        self._one_moment = Deadline(partial(self._show, Outcome.DECIDING))
        self._closing = False
        self._resting = Outcome.READY
        self._shown = Outcome.READY
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Shows the lane at rest and begins to read."""
        self._drive(self._barrier.confirm)
        self._show(Outcome.READY)
        for scanner in self._scanners:
            scanner.start(self.read, partial(self._scanner_changed, scanner.name))

    def relock(self) -> None:
        """From now on nothing is released any more: the barrier relocks, the lamps go dark."""
        self._closing = True
        self._timer.clear()
        self._perform(events.Relock())
        self._one_moment.clear()
        for player in self._players:
            player.stop()

    async def close(self) -> None:
        """Relocks, stops reading, and lets verdicts on their way be written down."""
        self.relock()
        for scanner in self._scanners:
            await scanner.close()
        for contact in self._contacts:
            contact.close()
        if self._at_store:
            self._all_back.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_back.wait(), _CLOSE_S)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)

    @property
    def alive(self) -> bool:
        """Whether the lane can do its work; a lost scanner or a slow disk does not count against it."""
        return self._failure is None and all(scanner.alive() for scanner in self._scanners)

    @property
    def mode(self) -> events.Mode:
        """The mode last commanded."""
        return self._lane.mode

    def own(self, contacts: tuple[Contact, ...]) -> None:
        """Takes the contacts that feed this lane, to close them with it."""
        self._contacts = contacts

    def view(self) -> dict[str, object]:
        """The lane for people."""
        return {
            "name": self.setting.name,
            "direction": self.setting.rules.direction,
            "state": self._lane.state,
            "mode": self._lane.mode,
            "shown": self._shown,
            "released": self._barrier.released,
            "scanners": {
                name: {"state": state, "why": why} for name, (state, why) in self._reading.states.items()
            },
        }

    def set_resting(self, outcome: Outcome) -> None:
        """What the lane shows while it is ready: READY, or how it is hampered."""
        if outcome is self._resting:
            return
        self._resting = outcome
        if self._lane.state is State.READY:
            self._show(Outcome.READY)

    def terms(self) -> Terms:
        """What holds for a scan at this lane now."""
        setting, worthwhile = self.setting, self._asker.worthwhile
        return Terms(
            lane_types=setting.ticket_types,
            ask_known=setting.ask_known and worthwhile,
            ask_unknown=setting.ask_unknown and worthwhile,
            rationed=worthwhile and self._asker.rationed(setting.name),
            unasked=setting.ask_known and not worthwhile and not self._asker.falls_back,
        )

    async def release_by_operator(self, ticket: str = "") -> bool:
        """Releases the barrier for one guest; False where the lane's state outranks an operator.

        ``ticket`` is the barcode of a ticket that is to be checked in, or out, as well. Raises StoreError.
        """
        if self._lane.state is State.LOCKED:
            return False
        if ticket:
            scan = self._scan(ticket)
            self._tell(await self._store.override(scan), scan.at.monotonic)
        self.feed(events.OperatorReleased())
        return True

    def read(self, read: Read, at: float) -> None:
        """Takes what a scanner read at monotonic time ``at``, unless it comes faster than people can scan."""
        if not self._takes(read):
            self._ignored += 1
            return
        if self._ignored:
            self._log.warning("reads_ignored", reads=self._ignored)
            self._ignored = 0
        self._read_at = at
        if isinstance(read, Barcode):
            self.feed(events.BarcodeRead(read.text, at))
        else:
            self._log.info("malformed", why=read.why, length=read.length)
            self.feed(events.MalformedRead(at))
        self._read_at = None

    def _takes(self, read: Read) -> bool:
        now = asyncio.get_running_loop().time()
        if int(now) != self._second:
            self._second, self._reads = int(now), 0
        self._reads += 1
        if self._reads > _MOST_A_SECOND:
            return False
        if self._at_store >= _MANY_UNDER_WAY and now < self._taken_at + _APART_S:
            return False
        if not isinstance(read, Barcode):
            if now < self._malformed_at + self.setting.pulse.total_seconds() + _AFTER_NOISE_S:
                return False
            self._malformed_at = now
        self._taken_at = now
        return True

    def feed(self, event: events.Event) -> None:
        """Gives the lane an event and carries out what follows, when it is the lane's turn."""
        turns, name = self.setting.interlock, self.setting.name
        if self._closing:
            return
        if turns is not None and self._needs_turn(event) and not turns.may(name):
            turns.wait(name, self.setting.rules.direction, self._take_turn)
            self._wait_for_turn(event)
            return
        self._take(event)

    def _wait_for_turn(self, event: events.Event) -> None:
        """What waits stays, but for an operator's word, or a barcode after what was none."""
        waiting = self._next
        if waiting is None or _NEEDS_TURN.index(type(event)) > _NEEDS_TURN.index(type(waiting)):
            if isinstance(waiting, events.BarcodeRead):
                self._journal(waiting.barcode, Reason.UNDECIDED, waiting.at)
            self._next = event
            self._show(Outcome.DECIDING)
        elif isinstance(event, events.BarcodeRead) and not _same_barcode(event, waiting):
            self._show(Outcome.BUSY)

    def _take_turn(self) -> None:
        event, self._next = self._next, None
        if event is not None and not self._closing:
            self._take(event)

    def _needs_turn(self, event: events.Event) -> bool:
        """Whether an event may release the barrier and something would come of it now."""
        return isinstance(event, _NEEDS_TURN) and bool(passage.step(self._lane, self.setting.rules, event)[1])

    def _take(self, event: events.Event) -> None:
        self._lane, effects = passage.step(self._lane, self.setting.rules, event)
        for effect in effects:
            if isinstance(effect, events.Release):
                self._drive(self._barrier.release)
        for effect in effects:
            self._perform(effect)
        if self.setting.interlock is not None:
            self.setting.interlock.moved(self.setting.name, self._lane.state)

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Decide(number, barcode):
                self._decide(number, barcode, self._read_at or time.monotonic())
            case events.Show(Outcome.DECIDING):
                self._one_moment.set(_AT_ONCE_S)
            case events.Show(outcome, ticket_type):
                self._show(outcome, ticket_type)
            case events.Start(duration):
                self._timer.set(duration.total_seconds())
            case events.Stop():
                self._timer.clear()
            case events.Relock():
                self._drive(self._barrier.relock)
            case events.Journal(barcode, reason):
                self._journal(barcode, reason, self._read_at or time.monotonic())
            case events.Note(number, came):
                self._note(number, came)
            case events.Alarm(kind):
                self._log.warning("alarm", kind=kind)
                self._spawn(self._occurred("alarm", kind))

    def _drive(self, move: Callable[[], None]) -> None:
        try:
            move()
        except PinError as error:
            self._log.error("barrier_failed", error=str(error), hint=error.hint)
            self._spawn(self._occurred("alarm", "barrier_failed"))

    def _show(self, outcome: Outcome, ticket_type: str = "") -> None:
        self._one_moment.clear()
        self._shown = self._at_rest() if outcome is Outcome.READY else outcome
        signal = self.setting.signals.of(self._shown, ticket_type)
        for player in self._players:
            player.show(signal)
        self._changed("shown", {"outcome": self._shown, "text": signal.text})

    def _at_rest(self) -> Outcome:
        """What a lane that is ready shows: the worst of what hampers it."""
        return Outcome.SCANNER_LOST if self._lane.scanners_lost else self._resting

    def _lamp_failed(self, part: str, error: PinError) -> None:
        self._log.error("lamp_failed", lamp=part, error=str(error), hint=error.hint)

    def _timer_ended(self) -> None:
        self.feed(events.TimerEnded(time.monotonic()))

    def _scanner_changed(self, name: str, state: ScannerState, why: str) -> None:
        self._log.info(
            "scanner_found" if state is ScannerState.READING else "scanner_lost", scanner=name, why=why
        )
        self._reading.states[name] = (state, why)
        lost = self._reading.lost
        if lost is not self._lane.scanners_lost:
            self.feed(events.ScannersLost() if lost else events.ScannersFound())

    def _decide(self, number: int, barcode: str, read_at: float) -> None:
        """Hands a scan to the store; its verdict is acted on in the very turn of the loop that brings it."""
        scan = self._scan(barcode)
        self._at_store += 1

        def answered(answer: Decided | Ask | BaseException) -> None:
            self._came_back()
            if isinstance(answer, Ask):
                self._spawn(self._ask(number, answer, read_at))
            else:
                self._conclude(number, self._or_fault(scan, answer), read_at)

        self._store.decide(scan, self.terms()).then(answered)

    def _came_back(self) -> None:
        self._at_store -= 1
        if not self._at_store:
            self._all_back.set()

    async def _ask(self, number: int, ask: Ask, read_at: float) -> None:
        try:
            decided = await self._asker.ask(ask)
        except StoreError as error:
            decided = self._or_fault(ask.scan, error)
        self._conclude(number, decided, read_at)

    def _or_fault(self, scan: Scan, answer: Decided | BaseException) -> Decided:
        """The decision, or the denial that stands for it where the store could give none."""
        if isinstance(answer, Decided):
            return answer
        if not isinstance(answer, StoreError):
            raise answer
        self._log.error("decision_failed", error=str(answer), hint=answer.hint)
        return Decided(scan, deny(None, Reason.FAULT), Origin.LOCAL, None, None)

    def _conclude(self, number: int, decided: Decided, read_at: float) -> None:
        if decided.verdict.admitted and decided.seq is not None:
            self._remember(number, decided.seq)
            if self._closing:  # its guest stands before a barrier that stays locked
                self._note(number, events.Came.NOT_TAKEN)
        self.feed(self._decided(number, decided))
        self._tell(decided, read_at)

    def _decided(self, number: int, decided: Decided) -> events.Decided:
        ticket, signals = decided.ticket, self.setting.signals
        special = signals.type_of(ticket.type_name, ticket.type_id) if ticket else ""
        return events.Decided(number, decided.verdict, signals.looks(special), special)

    def _scan(self, barcode: str) -> Scan:
        at = self._clock.now()
        return Scan(new_scan_id(at), barcode, self.setting.name, self.setting.rules.direction, at)

    def _tell(self, decided: Decided, read_at: float) -> None:
        scan, verdict = decided.scan, decided.verdict
        told = {
            "direction": scan.direction,
            "verdict": verdict.word,
            "code": verdict.code,
            "reason": verdict.reason,
            "origin": decided.origin,
            "took_ms": round((time.monotonic() - read_at) * 1000, 2),
            "barcode": log.masked(scan.barcode),
            "scan": str(scan.id),
        }
        if decided.seq is None:
            told["undurable"] = True
        self._log.info("scan", **told)
        ticket_type = decided.ticket.type_name if decided.ticket else ""
        self._changed("scan", {**told, "message": verdict.message, "ticket_type": ticket_type})

    def _journal(self, barcode: str, reason: Reason, read_at: float) -> None:
        scan = self._scan(barcode)
        self._at_store += 1

        def written(answer: Decided | BaseException) -> None:
            self._came_back()
            self._tell(self._or_fault(scan, answer), read_at)

        self._store.write_undecided(scan, deny(None, reason)).then(written)

    def _remember(self, number: int, seq: int) -> None:
        """Keeps the journal's number of an admission until it is known what came of it."""
        self._admitted[number] = seq
        while len(self._admitted) > _REMEMBERED:
            del self._admitted[next(iter(self._admitted))]

    def _note(self, number: int, came: events.Came) -> None:
        self._log.info("passage", came=came)
        if (seq := self._admitted.get(number)) is not None:
            self._spawn(self._store.set_passage(seq, _CAME[came]))

    async def _occurred(self, kind: str, what: str) -> None:
        await self._store.occurred(kind, self.setting.name, what, "", self._clock.now())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"lane {self.setting.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A task that failed in a way nobody foresaw makes the lane dead, so that the daemon is restarted."""
        self._tasks.discard(task)
        if task.cancelled() and self._closing:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, StoreError):
            self._log.error("journal_failed", error=str(error), hint=error.hint)
            return
        self._log.error("lane_failed", exc_info=error)
        self._failure = error


def _same_barcode(event: events.BarcodeRead, waiting: events.Event) -> bool:
    return isinstance(waiting, events.BarcodeRead) and waiting.barcode == event.barcode
