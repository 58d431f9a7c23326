"""What a lane shows: for each outcome a pattern on each lamp, one on the buzzer and a text, all as data.

Three rules hold for the defaults in ``SIGNALS``, and the tests check them:

- The rhythm says it, the colour repeats it. With all colours taken away every outcome still differs, by
  lamps and buzzer together, for the colour-blind guest; and only an admission is ever steady.
- White stands in for green and amber for red, and the other way round, with the rhythm kept. So a lane with
  a green and a red lamp shows every outcome, and nothing that means "stop" can come out green.
- No lamp flashes more than three times in a second (WCAG 2.3.1, "Three Flashes or Below Threshold").
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from gated.core.verdict import Reason, Verdict

ZERO = timedelta()


class Lamp(StrEnum):
    """A lamp of a lane, named by what it says rather than by its bulb."""

    GREEN = "green"
    RED = "red"
    AMBER = "amber"
    WHITE = "white"


@dataclass(frozen=True, slots=True)
class Pattern:
    """On for ``on``, then off for ``off``, and so on: ``times`` times, or until replaced if that is None."""

    on: timedelta
    off: timedelta
    times: int | None = None

    def __post_init__(self) -> None:
        if min(self.on, self.off) < ZERO or self.on + self.off == ZERO:
            raise ValueError("a pattern lasts: on and off are not negative and not both nothing")
        if self.times is not None and self.times < 1:
            raise ValueError("a pattern is played at least once")


def _pattern(on_ms: int, off_ms: int, times: int | None = None) -> Pattern:
    return Pattern(timedelta(milliseconds=on_ms), timedelta(milliseconds=off_ms), times)


STEADY = _pattern(1000, 0)
OFF = _pattern(0, 1000)
FAST = _pattern(200, 200)  # no, or get out: cannot be overlooked
BLINK = _pattern(500, 500)
SLOW = _pattern(1000, 1000)
VERY_SLOW = _pattern(2000, 2000)
LONG = _pattern(3000, 1000)
DIP = _pattern(1700, 300)  # nearly steady
NUDGE = _pattern(800, 200)  # steady with a blink every second
FLICKER = _pattern(100, 400)  # something is being worked on
HEARTBEAT = _pattern(200, 800)
WINK = _pattern(100, 1900)  # nearly dark: alive, and not asking to be looked at

BEEP = _pattern(100, 100, times=1)
TWO_BEEPS = _pattern(100, 150, times=2)
THREE_BEEPS = _pattern(100, 150, times=3)
TWO_TONES = _pattern(300, 200, times=2)
LONG_TONE = _pattern(800, 200, times=1)
TICK = _pattern(30, 100, times=1)
TWO_TICKS = _pattern(30, 150, times=2)
SIREN = _pattern(500, 500)

PATTERNS: Mapping[str, Pattern] = {
    "off": OFF,
    "steady": STEADY,
    "fast": FAST,
    "blink": BLINK,
    "slow": SLOW,
    "very_slow": VERY_SLOW,
    "long": LONG,
    "dip": DIP,
    "nudge": NUDGE,
    "flicker": FLICKER,
    "heartbeat": HEARTBEAT,
    "wink": WINK,
    "beep": BEEP,
    "two_beeps": TWO_BEEPS,
    "three_beeps": THREE_BEEPS,
    "two_tones": TWO_TONES,
    "long_tone": LONG_TONE,
    "tick": TICK,
    "two_ticks": TWO_TICKS,
    "siren": SIREN,
}
"""By the names that people write."""


def level(pattern: Pattern, elapsed: timedelta) -> tuple[bool, timedelta | None]:
    """Whether a pattern is on when it has played for ``elapsed`` (not negative), and when that next changes.

    The change is given as an elapsed time too, always later than the one asked about; None if it never
    changes again.
    """
    period = pattern.on + pattern.off
    if pattern.on == ZERO:
        return False, None
    end = None if pattern.times is None else pattern.times * period
    if pattern.off == ZERO:  # steady, though perhaps not for ever
        return (True, end) if end is None or elapsed < end else (False, None)
    cycle, within = divmod(elapsed, period)
    start = cycle * period
    if end is not None and start >= end:
        return False, None
    if within < pattern.on:
        return True, start + pattern.on
    following = start + period
    return False, None if following == end else following


@dataclass(frozen=True, slots=True)
class Signal:
    """What a lane shows at once: a pattern for each lamp named (others are dark), the buzzer's, and a text.

    ``text`` is for a display or the panel: short, in English, without a guest's data.
    """

    lamps: tuple[tuple[Lamp, Pattern], ...]
    buzzer: Pattern | None
    text: str

    def lamp(self, lamp: Lamp) -> Pattern:
        """The pattern of one lamp: ``OFF`` if the signal does not name it."""
        return dict(self.lamps).get(lamp, OFF)


class Outcome(StrEnum):
    """What a lane has to say. The first group lasts until the lane changes, the second for a moment."""

    READY = "ready"
    OFFLINE = "offline"  # ready, and working without the API: a discreet sign for staff
    DISK_FAILING = "disk_failing"  # ready, but scans may not be on disk: staff should look
    NOT_READY = "not_ready"  # no tickets on disk yet
    SCANNER_LOST = "scanner_lost"
    FREE = "free"
    LOCKED = "locked"
    OUT_OF_SERVICE = "out_of_service"
    EMERGENCY = "emergency"

    DECIDING = "deciding"
    ADMIT = "admit"
    ADMIT_LOOK = "admit_look"  # admitted, and staff should look at the guest: child, VIP
    PASSING = "passing"
    DENY = "deny"
    ALREADY_SCANNED = "already_scanned"
    BUSY = "busy"
    SCAN_AGAIN = "scan_again"


def _signal(text: str, buzzer: Pattern | None = None, **lamps: Pattern) -> Signal:
    return Signal(tuple((Lamp(name), pattern) for name, pattern in lamps.items()), buzzer, text)


SIGNALS: Mapping[Outcome, Signal] = {
    Outcome.READY: _signal("Scan your ticket", white=WINK),
    Outcome.OFFLINE: _signal("Scan your ticket", white=WINK, amber=WINK),
    Outcome.DISK_FAILING: _signal("Scan your ticket", white=WINK, amber=VERY_SLOW),
    Outcome.NOT_READY: _signal("Not ready yet", TICK, amber=HEARTBEAT),
    Outcome.SCANNER_LOST: _signal("Scanner lost", white=VERY_SLOW, amber=SLOW),
    Outcome.FREE: _signal("Please pass", green=SLOW),
    Outcome.LOCKED: _signal("Closed", red=LONG),
    Outcome.OUT_OF_SERVICE: _signal("Out of service", red=VERY_SLOW),
    Outcome.EMERGENCY: _signal("Leave now", SIREN, green=FAST, white=FAST),
    Outcome.DECIDING: _signal("One moment", white=FLICKER),
    Outcome.ADMIT: _signal("Welcome", BEEP, green=STEADY),
    Outcome.ADMIT_LOOK: _signal("Welcome: staff, please look", TWO_BEEPS, green=NUDGE),
    Outcome.PASSING: _signal("Please pass", green=DIP),
    Outcome.DENY: _signal("Not valid here", LONG_TONE, red=FAST),
    Outcome.ALREADY_SCANNED: _signal("Already scanned", TWO_TONES, red=BLINK),
    Outcome.BUSY: _signal("Please wait, then scan again", TWO_TICKS, white=FLICKER, amber=FLICKER),
    Outcome.SCAN_AGAIN: _signal("Please scan again", THREE_BEEPS, white=BLINK, amber=BLINK),
}

# "Go" lamps stand in for each other and "stop" lamps do, never one for the other.
STANDS_IN = {
    Lamp.GREEN: Lamp.WHITE,
    Lamp.WHITE: Lamp.GREEN,
    Lamp.AMBER: Lamp.RED,
    Lamp.RED: Lamp.AMBER,
}


def for_lamps(signal: Signal, available: Set[Lamp]) -> Signal:
    """The signal as a lane that has only the ``available`` lamps shows it.

    A missing lamp's pattern moves to the lamp that stands in for it, unless the signal uses that one itself;
    where neither is there it is left out.
    """
    shown = {lamp: pattern for lamp, pattern in signal.lamps if lamp in available}
    for lamp, pattern in signal.lamps:
        if lamp not in available and STANDS_IN[lamp] in available:
            shown.setdefault(STANDS_IN[lamp], pattern)
    return Signal(tuple(shown.items()), signal.buzzer, signal.text)


# An RGB lamp shows one of a signal's lamps at a time: of two that are lit at once, the first here.
RGB_RANK = (Lamp.RED, Lamp.AMBER, Lamp.GREEN, Lamp.WHITE)
RGB = {
    Lamp.RED: (True, False, False),
    Lamp.AMBER: (True, True, False),
    Lamp.GREEN: (False, True, False),
    Lamp.WHITE: (True, True, True),
}
DARK = (False, False, False)


def for_rgb(signal: Signal) -> Signal:
    """The signal as an RGB lamp shows it, without the lamps that never come through."""
    shown: dict[Lamp, Pattern] = {}
    for lamp, pattern in sorted(signal.lamps, key=lambda lit: RGB_RANK.index(lit[0])):
        if STEADY not in shown.values() and pattern not in shown.values():
            shown[lamp] = pattern
    return Signal(tuple(shown.items()), signal.buzzer, signal.text)


def mixed(lit: Set[Lamp]) -> tuple[bool, bool, bool]:
    """Red, green and blue of an RGB lamp that is to show these lamps at once: "stop" outranks "go"."""
    return next((RGB[lamp] for lamp in RGB_RANK if lamp in lit), DARK)


# Reasons that are not the ticket's fault are never shown as a plain "no".
DENIALS_SHOWN = {
    Reason.ALREADY_SCANNED: Outcome.ALREADY_SCANNED,
    Reason.ALREADY_CHECKED_OUT: Outcome.ALREADY_SCANNED,
    Reason.BUSY: Outcome.BUSY,
    Reason.NO_ANSWER: Outcome.SCAN_AGAIN,
    Reason.MALFORMED: Outcome.SCAN_AGAIN,
    Reason.NOT_READY: Outcome.NOT_READY,
    Reason.FAULT: Outcome.NOT_READY,
    Reason.UNDECIDED: Outcome.NOT_READY,
}


def outcome_of(verdict: Verdict, *, look: bool = False) -> Outcome:
    """What a lane shows for a verdict; ``look`` if staff should look at whom this type of ticket admits.

    An undecided scan is best not shown: its lane's mode stays lit.
    """
    if verdict.admitted:
        return Outcome.ADMIT_LOOK if look else Outcome.ADMIT
    return DENIALS_SHOWN.get(verdict.reason, Outcome.DENY)
