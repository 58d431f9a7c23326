"""A gate's own signals: changes to the built-in ones, as data, and what must not come of them.

A technician may let a gate show what suits its house. Only what could harm is refused: that a guest takes a
"no" for a "yes", that a lamp flashes fast enough to cause a fit, that a buzzer never ends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from gated.core.signals import OFF, SIGNALS, ZERO, Lamp, Outcome, Pattern, Signal

# WCAG 2.3.1: three flashes in a second, and no more.
SHORTEST_FLASH = timedelta(seconds=1) / 3

_GO_LAMPS = frozenset({Lamp.GREEN, Lamp.WHITE})
# What tells a guest to go, and what tells one not to. The other outcomes are no answer to anybody.
GO = frozenset({Outcome.ADMIT, Outcome.ADMIT_LOOK, Outcome.PASSING, Outcome.FREE, Outcome.EMERGENCY})
STOP = frozenset(
    {
        Outcome.NOT_READY,
        Outcome.LOCKED,
        Outcome.OUT_OF_SERVICE,
        Outcome.DENY,
        Outcome.ALREADY_SCANNED,
        Outcome.BUSY,
        Outcome.SCAN_AGAIN,
    }
)
_ADMISSIONS = (Outcome.ADMIT, Outcome.ADMIT_LOOK)


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed of a signal: the lamps that it names, and buzzer and text unless they are None."""

    lamps: tuple[tuple[Lamp, Pattern], ...] = ()
    buzzer: Pattern | None = None
    text: str | None = None

    def of(self, signal: Signal) -> Signal:
        """That signal, so changed."""
        lamps = {**dict(signal.lamps), **dict(self.lamps)}
        return Signal(
            tuple((lamp, pattern) for lamp, pattern in lamps.items() if pattern != OFF),
            signal.buzzer if self.buzzer is None else self.buzzer,
            signal.text if self.text is None else self.text,
        )


@dataclass(frozen=True, slots=True)
class TypeSignal:
    """How an admitted ticket of some type is shown: as an ADMIT_LOOK if ``look``, and so changed."""

    look: bool = False
    change: Change = Change()


@dataclass(frozen=True, slots=True)
class Signals:
    """All that a gate shows. ``types`` are the ticket types shown in a way of their own, by name or id."""

    outcomes: Mapping[Outcome, Signal] = field(default_factory=lambda: SIGNALS)
    types: Mapping[str, TypeSignal] = field(default_factory=dict)

    def type_of(self, *names: str) -> str:
        """The first of a ticket type's name and id that is shown in a way of its own, else a blank text."""
        return next((name for name in names if name in self.types), "") if self.types else ""

    def looks(self, ticket_type: str) -> bool:
        """Whether staff should look at whom a ticket of this type admits."""
        return ticket_type in self.types and self.types[ticket_type].look

    def of(self, outcome: Outcome, ticket_type: str = "") -> Signal:
        """What is shown for an outcome; the type, if any, counts where its ticket is admitted."""
        signal = self.outcomes[outcome]
        if outcome in _ADMISSIONS and ticket_type in self.types:
            return self.types[ticket_type].change.of(signal)
        return signal


def too_fast(pattern: Pattern) -> bool:
    """Whether a lamp that plays this pattern flashes more than three times in a second."""
    return min(pattern.on, pattern.off) > ZERO and pattern.on + pattern.off < SHORTEST_FLASH


def objection(outcome: Outcome, signal: Signal) -> str:
    """Why an outcome must not be shown so, in words that follow its name; blank if it may."""
    lit = {lamp for lamp, _ in signal.lamps}
    if outcome in GO and not lit:
        return "must light green or white: a guest would not know that he may go"
    if outcome in GO and not lit <= _GO_LAMPS:
        return "must not light red or amber: it tells a guest to go"
    if outcome in STOP and (Lamp.GREEN in lit or lit <= _GO_LAMPS):
        return "must light red or amber, and not green: it tells a guest not to go"
    if signal.buzzer is not None and outcome is not Outcome.EMERGENCY and _endless(signal.buzzer):
        return 'has a buzzer that never ends: write how often it sounds, as "200/200x3"'
    return ""


def _endless(pattern: Pattern) -> bool:
    return pattern.times is None and pattern.on > ZERO


def confusions(shown: Mapping[Outcome, Signal]) -> Iterator[tuple[Outcome, Outcome]]:
    """Each outcome that does not tell a guest to go, yet lights just as one that does.

    ``shown`` are the signals as one lane's lamps show them.
    """
    lit = {outcome: frozenset(signal.lamps) for outcome, signal in shown.items()}
    for outcome in [each for each in lit if each not in GO]:
        yield from ((outcome, go) for go in lit if go in GO and lit[go] and lit[outcome] == lit[go])
