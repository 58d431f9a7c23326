"""Commissioning a gate: the steps as data, what was found out, and the site report as text.

- What nobody watched is never said to work.
- A contact works if it was seen to leave its normal state for long enough, and to come back to it.
- A scanner works if the test code came through to the letter. Where it did not, the likely cause is named.

Where German and French keyboards have their keys is general knowledge, not tried with a scanner of each.
gated reads keys as those of a US keyboard.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gated.core.barcode import Barcode, Malformed, MalformedWhy, Read

# It has what keyboard layouts exchange (a q z w y m, digits, - and _) and both cases.
TEST_CODE = "GATED-Test_0123-azqwym"

LAMP_SHOWN = timedelta(seconds=2)
BUZZER_SOUNDS = timedelta(milliseconds=500)
HOLD_SHOWN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class OutputStep:
    """An output to drive for ``on``; ``expect`` is what should then be seen or heard."""

    part: str
    pin: int
    active_high: bool
    on: timedelta
    expect: str

    @property
    def where(self) -> str:
        return f"GPIO{self.pin}"


@dataclass(frozen=True, slots=True)
class InputStep:
    """A contact to actuate and let go again, as ``act`` asks, in no more than ``within``."""

    part: str
    pin: int
    normally_closed: bool
    act: str
    within: timedelta = timedelta(seconds=60)
    warning: str = ""

    @property
    def where(self) -> str:
        return f"GPIO{self.pin}"


@dataclass(frozen=True, slots=True)
class ScannerStep:
    """A scanner, by its place among the gate's lanes, which is to read the test code."""

    part: str
    where: str
    lane: int
    scanner: int
    within: timedelta = timedelta(seconds=60)


Step = OutputStep | InputStep | ScannerStep


class Found(StrEnum):
    """What came of a step."""

    WORKS = "works"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNWATCHED = "unwatched"  # driven without an error, and nobody looked


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one part; ``note`` has measured times, or the likely cause."""

    part: str
    where: str
    found: Found
    note: str = ""


# Contacts

Change = tuple[bool, float]
"""Whether a contact is active from then on, and the monotonic seconds."""


def judge_contact(changes: Sequence[Change], shortest: timedelta) -> tuple[Found, str]:
    """What the changes of a contact that was normal, and was actuated once, say of it.

    ``shortest`` is how long it must be active to count.
    """
    stretches = [seconds * 1000 for seconds in _stretches(changes)]
    longest = max(stretches, default=0.0)
    need = shortest / timedelta(milliseconds=1)
    bounces = f", bounces: {len(stretches) - 1}" if len(stretches) > 1 else ""
    if longest < need:
        return Found.FAILED, f"active for {longest:.0f} ms only: gated needs {need:.0f} ms or more{bounces}"
    return Found.WORKS, f"active for {longest:.0f} ms{bounces}"


def _stretches(changes: Iterable[Change]) -> Iterator[float]:
    """How long the contact was active, each time."""
    begun: float | None = None
    for active, at in changes:  # the same state may be told twice
        if active and begun is None:
            begun = at
        elif not active and begun is not None:
            yield at - begun
            begun = None


# Scanners

# What reads a US keyboard's keys makes of a test code that was typed for another layout.
_LAYOUTS = {
    "German (QWERTZ)": str.maketrans("yzYZ-_", "zyZY/?"),
    "French (AZERTY)": str.maketrans("aqzwAQZWm-_0123", "qawzQAWZ;68)!@#"),
}
_WHY_MALFORMED = {
    MalformedWhy.TOO_LONG: "several codes came as one: the scanner sends no terminator, or another one",
    MalformedWhy.NOT_PRINTABLE: "control characters came: check the scanner's suffix, and terminator",
    MalformedWhy.NOT_UTF8: "bytes came that are no text: check baudrate, bytesize and parity",
    MalformedWhy.NO_AIM: 'aim = "require", and the scanner sends no AIM identifier',
    MalformedWhy.CHORD: "keys came with Ctrl, Alt or Meta: switch the scanner's function codes off",
    MalformedWhy.KEYS_LOST: "keys were lost: scan again",
    MalformedWhy.EMPTY: "an empty code came: scan again",
}
# What can be said where characters came, and never an end of them.
NO_END = "characters came, but no end of them: set the scanner's suffix to what terminator says"


def judge_scan(read: Read) -> str:
    """Why what a scanner read is not the test code; blank if it is."""
    if isinstance(read, Malformed):
        return _WHY_MALFORMED[read.why]
    return "" if read.text == TEST_CODE else _why_other(read)


def _why_other(read: Barcode) -> str:
    text = read.text
    for layout, typed in _LAYOUTS.items():
        if text == TEST_CODE.translate(typed):
            return f"the scanner types for a {layout} keyboard: set its layout to US"
    if text.casefold() == TEST_CODE.casefold():
        return "capitals and small letters came wrong: switch the scanner's case conversion off"
    return _why_longer(text) or _why_shorter(text)


def _why_longer(text: str) -> str:
    before, code, after = text.partition(TEST_CODE)
    if code and after:
        return f"{after} came after the code: set the scanner's suffix to what terminator says, and no more"
    if code:
        advice = 'aim = "strip"' if re.fullmatch(r"\][A-Za-z][0-9]", before) else f'prefix = "{before}"'
        return f"{before} came before the code: switch that off at the scanner, or write {advice}"
    return ""


def _why_shorter(text: str) -> str:
    if text in TEST_CODE:
        return "only a piece of the code came: character_timeout_ms is too short, or the cable is bad"
    if len(text) == len(TEST_CODE):
        return "as many other characters came: set the scanner's keyboard layout to US, or check the parity"
    return f"another code came, of {len(text)} characters"


# The report


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """What the configuration declares of a lane, for whoever signs."""

    name: str
    direction: str
    release: str
    when_off: str
    emergency_wired: bool


@dataclass(frozen=True, slots=True)
class Site:
    """Where and with what the test was made. ``at`` is aware, in the gate's own time zone."""

    gate: str
    at: datetime
    version: str
    board: str
    kernel: str
    let_go: str
    pins: str
    lanes: tuple[LaneFacts, ...]


def summary(results: Iterable[Result]) -> str:
    """How many parts work, failed, were skipped, in one line."""
    found = [result.found for result in results]
    words = {Found.FAILED: "failed", Found.UNWATCHED: "driven, not watched", Found.SKIPPED: "skipped"}
    told = [f"{found.count(each)} {word}" for each, word in words.items() if each in found]
    return ", ".join([f"{found.count(Found.WORKS)} of {len(found)} parts work", *told])


def report(site: Site, results: Sequence[Result]) -> str:
    """The site report, in Markdown."""
    return "\n".join(_report(site, results)) + "\n"


def _report(site: Site, results: Sequence[Result]) -> Iterator[str]:
    yield f"# Site report: {_cell(site.gate)}"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("tested", f"{site.at:%Y-%m-%d %H:%M} ({site.at.tzname()})"),
            ("gated", site.version),
            ("computer", site.board),
            ("kernel", site.kernel),
            ("an output whose program is killed", site.let_go),
            ("pins", site.pins),
        ],
    )
    yield f"\n**{summary(results)}.**\n"
    yield "## Parts\n"
    rows = [(each.part, each.where, _word(each.found), each.note) for each in results]
    yield from _table(("part", "where", "result", "note"), rows)
    yield "\n## Lanes, as configured\n"
    lanes = [
        (lane.name, lane.direction, lane.release, lane.when_off, "yes" if lane.emergency_wired else "no")
        for lane in site.lanes
    ]
    yield from _table(("lane", "direction", "release", "without power", "emergency wired"), lanes)
    yield _BY_HAND


_BY_HAND = """
## By hand

- [ ] With the Pi switched off, the fire panel's test opens every barrier.
- [ ] Killed while the relay is on (`systemctl kill -s KILL gated`), the relay drops at once.
- [ ] A set-up code of the scanner's manual is not obeyed.
- [ ] `gated hardware drill`: the times are ____________________
- [ ] `gated doctor`: no line says no-go.

Photo of the cabinet: ____________________

Photo of the turnstile's terminals: ____________________

Notes:

&nbsp;

## Signature

Name: ____________________  Date: ____________________  Signature: ____________________"""


def _word(found: Found) -> str:
    return {Found.FAILED: "**FAILED**", Found.UNWATCHED: "driven, not watched"}.get(found, str(found))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(map(_cell, row)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
