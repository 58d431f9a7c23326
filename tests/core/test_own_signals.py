"""A gate's own signals: what a change does, and that what could harm is refused."""

from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.own_signals import (
    GO,
    STOP,
    Change,
    Signals,
    TypeSignal,
    confusions,
    objection,
    too_fast,
)
from gated.core.signals import (
    BEEP,
    BLINK,
    FAST,
    OFF,
    PATTERNS,
    SIGNALS,
    SIREN,
    STEADY,
    TWO_TONES,
    WINK,
    Lamp,
    Outcome,
    Pattern,
    Signal,
    for_lamps,
    for_rgb,
)

LAMP_SETS = [frozenset(chosen) for n in range(5) for chosen in combinations(Lamp, n)]


def lit(**lamps: Pattern) -> Change:
    return Change(tuple((Lamp(name), pattern) for name, pattern in lamps.items()))


def test_a_change_names_what_it_changes_and_leaves_the_rest() -> None:
    changed = lit(white=WINK).of(SIGNALS[Outcome.ADMIT])
    assert dict(changed.lamps) == {Lamp.GREEN: STEADY, Lamp.WHITE: WINK}
    assert (changed.buzzer, changed.text) == (BEEP, "Welcome")


def test_a_lamp_that_is_off_is_not_in_the_signal() -> None:
    changed = Change(((Lamp.GREEN, OFF), (Lamp.WHITE, STEADY)), TWO_TONES, "Hi").of(SIGNALS[Outcome.ADMIT])
    assert changed == Signal(((Lamp.WHITE, STEADY),), TWO_TONES, "Hi")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_built_in_signals_are_not_objected_to(outcome: Outcome) -> None:
    assert objection(outcome, SIGNALS[outcome]) == ""


@pytest.mark.parametrize("lamps", LAMP_SETS)
def test_the_built_in_signals_confuse_nobody_on_any_lamps(lamps: frozenset[Lamp]) -> None:
    assert not list(confusions({each: for_lamps(signal, lamps) for each, signal in SIGNALS.items()}))


def test_the_built_in_signals_confuse_nobody_on_an_rgb_lamp() -> None:
    assert not list(confusions({each: for_rgb(signal) for each, signal in SIGNALS.items()}))


@pytest.mark.parametrize(
    ("outcome", "change", "why"),
    [
        (Outcome.DENY, lit(red=OFF, green=FAST), "and not green"),
        (Outcome.DENY, lit(green=FAST), "and not green"),
        (Outcome.DENY, lit(red=OFF), "must light red or amber"),
        (Outcome.BUSY, lit(amber=OFF), "must light red or amber"),
        (Outcome.LOCKED, lit(red=OFF, white=BLINK), "must light red or amber"),
        (Outcome.ADMIT, lit(green=OFF), "must light green or white"),
        (Outcome.ADMIT, lit(red=STEADY), "must not light red or amber"),
        (Outcome.FREE, lit(amber=BLINK), "must not light red or amber"),
        (Outcome.EMERGENCY, lit(red=FAST), "must not light red or amber"),
        (Outcome.READY, Change(buzzer=SIREN), "never ends"),
    ],
)
def test_what_could_harm_is_objected_to(outcome: Outcome, change: Change, why: str) -> None:
    assert why in objection(outcome, change.of(SIGNALS[outcome]))


@pytest.mark.parametrize(
    ("outcome", "change"),
    [
        (Outcome.READY, lit(white=OFF, red=STEADY)),  # as many traffic lights rest
        (Outcome.DENY, lit(red=STEADY, white=BLINK)),
        (Outcome.ADMIT, lit(white=BLINK)),
        (Outcome.EMERGENCY, Change(buzzer=FAST)),
        (Outcome.DENY, Change(buzzer=OFF, text="No")),
    ],
)
def test_what_harms_nobody_is_not_objected_to(outcome: Outcome, change: Change) -> None:
    assert objection(outcome, change.of(SIGNALS[outcome])) == ""


def test_a_lane_at_rest_that_lights_as_an_admission_is_a_confusion() -> None:
    signals = {**SIGNALS, Outcome.READY: lit(white=OFF, green=STEADY).of(SIGNALS[Outcome.READY])}
    assert list(confusions(signals)) == [(Outcome.READY, Outcome.ADMIT)]


def test_what_differs_by_a_lamp_that_is_not_there_is_a_confusion() -> None:
    ready = lit(white=STEADY, amber=BLINK).of(SIGNALS[Outcome.READY])
    shown = {
        each: for_lamps(signal, {Lamp.GREEN}) for each, signal in {**SIGNALS, Outcome.READY: ready}.items()
    }
    assert list(confusions(shown)) == [(Outcome.READY, Outcome.ADMIT)]


def test_an_outcome_tells_to_go_or_not_to_or_is_no_answer() -> None:
    assert not GO & STOP
    assert set(Outcome) - GO - STOP == {
        Outcome.READY,
        Outcome.OFFLINE,
        Outcome.DISK_FAILING,
        Outcome.SCANNER_LOST,
        Outcome.DECIDING,
    }


patterns = st.sampled_from(list(PATTERNS.values()))
changes = st.dictionaries(st.sampled_from(list(Lamp)), patterns).map(
    lambda lamps: Change(tuple(lamps.items()))
)


@given(st.sampled_from(sorted(STOP)), changes, st.sampled_from(LAMP_SETS))
def test_no_change_that_is_let_through_shows_a_no_in_green_alone(
    outcome: Outcome, change: Change, lamps: frozenset[Lamp]
) -> None:
    signal = change.of(SIGNALS[outcome])
    if not objection(outcome, signal) and lamps & {Lamp.RED, Lamp.AMBER}:
        assert {lamp for lamp, _ in for_lamps(signal, lamps).lamps} & {Lamp.RED, Lamp.AMBER}


@pytest.mark.parametrize(
    ("on", "off", "fast"), [(166, 167, True), (167, 167, False), (100, 0, False), (0, 100, False)]
)
def test_more_than_three_flashes_a_second_are_too_fast(on: int, off: int, fast: bool) -> None:
    assert too_fast(Pattern(timedelta(milliseconds=on), timedelta(milliseconds=off))) is fast


CHILD = TypeSignal(look=True, change=Change(text="Child"))
SIGNED = Signals(types={"Child": CHILD, "42": TypeSignal(change=lit(white=BLINK))})


def test_a_type_is_known_by_its_name_or_its_id() -> None:
    assert SIGNED.type_of("Child", "7") == "Child"
    assert SIGNED.type_of("VIP", "42") == "42"
    assert SIGNED.type_of("Adult", "8") == ""


def test_staff_look_at_the_types_that_say_so() -> None:
    assert [SIGNED.looks(each) for each in ("Child", "42", "")] == [True, False, False]


def test_a_type_changes_its_admissions_and_nothing_else() -> None:
    assert SIGNED.of(Outcome.ADMIT_LOOK, "Child").text == "Child"
    assert SIGNED.of(Outcome.ADMIT, "42").lamp(Lamp.WHITE) == BLINK
    assert SIGNED.of(Outcome.DENY, "42") == SIGNALS[Outcome.DENY]
    assert SIGNED.of(Outcome.ADMIT) == SIGNALS[Outcome.ADMIT]
