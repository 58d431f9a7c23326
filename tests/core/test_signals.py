from collections import Counter
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core import signals
from gated.core.signals import (
    FAST,
    OFF,
    SIGNALS,
    STEADY,
    WINK,
    ZERO,
    Lamp,
    Outcome,
    Pattern,
    Signal,
    for_lamps,
    for_rgb,
    level,
    mixed,
    outcome_of,
)
from gated.core.verdict import Reason, admit, deny

GREEN_AND_RED = frozenset({Lamp.GREEN, Lamp.RED})
EVERY_LAMP = frozenset(Lamp)


def ms(number: int) -> timedelta:
    return timedelta(milliseconds=number)


def lit(signal: Signal) -> frozenset[tuple[Lamp, Pattern]]:
    return frozenset(signal.lamps)


def rhythm(signal: Signal) -> tuple[frozenset[tuple[Pattern, int]], Pattern | None]:
    return frozenset(Counter(pattern for _, pattern in signal.lamps).items()), signal.buzzer


def test_every_outcome_has_a_signal() -> None:
    assert set(SIGNALS) == set(Outcome)
    assert all(signal.text for signal in SIGNALS.values())


@pytest.mark.parametrize("lamps", [GREEN_AND_RED, GREEN_AND_RED | {Lamp.AMBER}, EVERY_LAMP])
def test_every_outcome_differs_by_its_lamps_alone(lamps: frozenset[Lamp]) -> None:
    for one, other in combinations(Outcome, 2):
        assert lit(for_lamps(SIGNALS[one], lamps)) != lit(for_lamps(SIGNALS[other], lamps)), (one, other)


@pytest.mark.parametrize("lamps", [GREEN_AND_RED, EVERY_LAMP])
def test_every_outcome_differs_with_its_colours_taken_away(lamps: frozenset[Lamp]) -> None:
    for one, other in combinations(Outcome, 2):
        assert rhythm(for_lamps(SIGNALS[one], lamps)) != rhythm(for_lamps(SIGNALS[other], lamps)), (
            one,
            other,
        )


def test_only_an_admission_is_steady() -> None:
    assert [outcome for outcome in Outcome if STEADY in dict(SIGNALS[outcome].lamps).values()] == [
        Outcome.ADMIT
    ]


def test_no_lamp_flashes_more_than_three_times_a_second() -> None:
    for signal in SIGNALS.values():
        for _, pattern in signal.lamps:
            assert 3 * (pattern.on + pattern.off) >= timedelta(seconds=1)


@pytest.mark.parametrize("lamps", [frozenset(chosen) for n in range(5) for chosen in combinations(Lamp, n)])
def test_only_lamps_that_are_there_are_used_and_stop_never_turns_green(lamps: frozenset[Lamp]) -> None:
    go, stop = {Lamp.GREEN, Lamp.WHITE}, {Lamp.RED, Lamp.AMBER}
    for signal in SIGNALS.values():
        shown = for_lamps(signal, lamps)
        assert {lamp for lamp, _ in shown.lamps} <= lamps
        for family in (go, stop):
            meant = {pattern for lamp, pattern in signal.lamps if lamp in family}
            assert {pattern for lamp, pattern in shown.lamps if lamp in family} <= meant
        assert (shown.buzzer, shown.text) == (signal.buzzer, signal.text)


def test_a_missing_amber_is_shown_on_red_with_its_own_rhythm() -> None:
    shown = for_lamps(SIGNALS[Outcome.OFFLINE], GREEN_AND_RED)
    assert lit(shown) == {(Lamp.GREEN, WINK), (Lamp.RED, WINK)}


def test_a_lamp_in_use_is_not_taken_over_by_a_missing_one() -> None:
    signal = Signal(((Lamp.WHITE, WINK), (Lamp.GREEN, FAST)), None, "both")
    assert lit(for_lamps(signal, GREEN_AND_RED)) == {(Lamp.GREEN, FAST)}


def test_a_lamp_the_signal_does_not_name_is_off() -> None:
    assert SIGNALS[Outcome.ADMIT].lamp(Lamp.RED) == OFF
    assert SIGNALS[Outcome.ADMIT].lamp(Lamp.GREEN) == STEADY


def test_every_outcome_differs_on_an_rgb_lamp_alone() -> None:
    for one, other in combinations(Outcome, 2):
        assert lit(for_rgb(SIGNALS[one])) != lit(for_rgb(SIGNALS[other])), (one, other)


def test_an_rgb_lamp_shows_stop_before_go() -> None:
    assert lit(for_rgb(SIGNALS[Outcome.BUSY])) == {(Lamp.AMBER, signals.FLICKER)}
    assert lit(for_rgb(Signal(((Lamp.GREEN, FAST), (Lamp.RED, STEADY)), None, "both"))) == {
        (Lamp.RED, STEADY)
    }


def test_all_colours_are_mixed_of_three() -> None:
    assert len({mixed({lamp}) for lamp in Lamp} | {mixed(set())}) == 5
    assert mixed(set(Lamp)) == mixed({Lamp.RED})


def test_patterns_have_names_of_their_own() -> None:
    named = {pattern for name in dir(signals) if isinstance(pattern := getattr(signals, name), Pattern)}
    assert set(signals.PATTERNS.values()) == named


DENIED_AS = {
    Reason.ALREADY_SCANNED: Outcome.ALREADY_SCANNED,
    Reason.ALREADY_CHECKED_OUT: Outcome.ALREADY_SCANNED,
    Reason.BUSY: Outcome.BUSY,
    Reason.NO_ANSWER: Outcome.SCAN_AGAIN,
    Reason.MALFORMED: Outcome.SCAN_AGAIN,
    Reason.NOT_READY: Outcome.NOT_READY,
    Reason.FAULT: Outcome.NOT_READY,
    Reason.UNDECIDED: Outcome.NOT_READY,
    Reason.UNKNOWN: Outcome.DENY,
    Reason.CANCELED: Outcome.DENY,
    Reason.NOT_ALLOWED: Outcome.DENY,
    Reason.BAD_DATA: Outcome.DENY,
    Reason.TOO_EARLY: Outcome.DENY,
    Reason.EXPIRED: Outcome.DENY,
    Reason.NOT_CHECKED_IN: Outcome.DENY,
    Reason.NOT_IN_SERVICE: Outcome.DENY,
    Reason.AMBIGUOUS: Outcome.DENY,
    Reason.REFUSED: Outcome.DENY,
}


@pytest.mark.parametrize(("reason", "outcome"), DENIED_AS.items())
def test_a_denial_is_shown_by_its_reason(reason: Reason, outcome: Outcome) -> None:
    assert outcome_of(deny(None, reason)) is outcome
    assert outcome_of(deny(None, reason), look=True) is outcome


@pytest.mark.parametrize("reason", list(Reason))
def test_an_admission_is_always_shown_as_one(reason: Reason) -> None:
    assert outcome_of(admit(100, reason)) is Outcome.ADMIT
    assert outcome_of(admit(100, reason), look=True) is Outcome.ADMIT_LOOK


@pytest.mark.parametrize(
    ("pattern", "elapsed", "on", "change"),
    [
        (STEADY, ms(0), True, None),
        (STEADY, ms(123_456), True, None),
        (OFF, ms(500), False, None),
        (FAST, ms(0), True, ms(200)),
        (FAST, ms(199), True, ms(200)),
        (FAST, ms(200), False, ms(400)),
        (FAST, ms(400), True, ms(600)),
        (Pattern(ms(100), ms(50), times=2), ms(100), False, ms(150)),
        (Pattern(ms(100), ms(50), times=2), ms(150), True, ms(250)),
        (Pattern(ms(100), ms(50), times=2), ms(250), False, None),
        (Pattern(ms(100), ms(50), times=2), ms(300), False, None),
        (Pattern(ms(100), ZERO, times=3), ms(100), True, ms(300)),
        (Pattern(ms(100), ZERO, times=3), ms(300), False, None),
    ],
)
def test_a_pattern_has_a_level_and_a_next_change(
    pattern: Pattern, elapsed: timedelta, on: bool, change: timedelta | None
) -> None:
    assert level(pattern, elapsed) == (on, change)


@pytest.mark.parametrize(
    ("on", "off", "times"), [(0, 0, None), (-1, 5, None), (5, -1, None), (5, 5, 0), (5, 5, -1)]
)
def test_a_pattern_that_can_not_be_played_is_refused(on: int, off: int, times: int | None) -> None:
    with pytest.raises(ValueError, match="a pattern"):
        Pattern(ms(on), ms(off), times)


spans = st.integers(0, 5000).map(ms)
patterns = st.builds(Pattern, spans, spans.filter(bool), st.none() | st.integers(1, 5)) | st.builds(
    Pattern, spans.filter(bool), spans, st.none() | st.integers(1, 5)
)


@given(patterns, st.integers(0, 60_000).map(ms))
def test_a_pattern_keeps_its_level_until_its_next_change_and_then_flips(
    pattern: Pattern, elapsed: timedelta
) -> None:
    on, change = level(pattern, elapsed)
    if change is None:
        assert level(pattern, elapsed + timedelta(days=1))[0] == on
        return
    assert change > elapsed
    assert level(pattern, change - timedelta(microseconds=1)) == (on, change)
    assert level(pattern, change)[0] is not on


@given(patterns.filter(lambda pattern: pattern.times is not None))
def test_a_counted_pattern_ends_dark(pattern: Pattern) -> None:
    assert pattern.times is not None
    assert level(pattern, pattern.times * (pattern.on + pattern.off)) == (False, None)


def test_the_buzzer_falls_silent_by_itself_but_in_an_emergency() -> None:
    endless = [o for o, s in SIGNALS.items() if s.buzzer is not None and s.buzzer.times is None]
    assert endless == [Outcome.EMERGENCY]
    assert SIGNALS[Outcome.EMERGENCY].buzzer == signals.SIREN
