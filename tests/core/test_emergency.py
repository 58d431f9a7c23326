from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.core.emergency import LATCHES, NORMAL, Came, Emergency, input_changed, reset, time_passed

NONE = Emergency()
BEGUN = Emergency(active=True, since=10.0)
LATCHED = Emergency(active=True, latched=True, since=10.0)
OVER = Emergency(latched=True, since=20.0)  # latched, and the input normal since 20.0


@pytest.mark.parametrize(
    ("before", "active", "at", "after", "came"),
    [
        (NONE, False, 10.0, NONE, Came.NOTHING),
        (NONE, True, 10.0, BEGUN, Came.BEGAN),
        (BEGUN, True, 10.05, BEGUN, Came.NOTHING),
        (BEGUN, False, 10.05, Emergency(since=10.05), Came.DISTURBED),
        (BEGUN, False, 10.5, Emergency(latched=True, since=10.5), Came.LATCHED),
        (LATCHED, True, 15.0, LATCHED, Came.NOTHING),
        (LATCHED, False, 20.0, OVER, Came.NOTHING),
        (OVER, False, 21.0, OVER, Came.NOTHING),
        (OVER, True, 21.0, replace(LATCHED, since=21.0), Came.NOTHING),
    ],
)
def test_what_a_change_of_the_input_means(
    before: Emergency, active: bool, at: float, after: Emergency, came: Came
) -> None:
    assert input_changed(before, active=active, at=at) == (after, came)


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(
    ("before", "at", "after", "came"),
    [
        (NONE, 100.0, NONE, Came.NOTHING),
        (BEGUN, 10.05, BEGUN, Came.NOTHING),
        (BEGUN, 10.125, LATCHED, Came.LATCHED),
        (LATCHED, 1000.0, LATCHED, Came.NOTHING),
        (OVER, 20.0 + NORMAL - 0.01, OVER, Came.NOTHING),
    ],
)
def test_time_latches_an_emergency_whichever_way_it_is_reset(
    before: Emergency, at: float, after: Emergency, came: Came, automatic: bool
) -> None:
    assert time_passed(before, at=at, automatic=automatic) == (after, came)


def test_time_ends_a_latched_emergency_only_where_it_resets_by_itself() -> None:
    at = 20.0 + NORMAL
    assert time_passed(OVER, at=at, automatic=True) == (Emergency(since=20.0), Came.ENDED)
    assert time_passed(OVER, at=at + 1000, automatic=False) == (OVER, Came.NOTHING)


@pytest.mark.parametrize(
    ("before", "at", "why_not"),
    [
        (NONE, 100.0, "there is no emergency"),
        (BEGUN, 10.05, "the emergency input is still active"),
        (LATCHED, 1000.0, "the emergency input is still active"),
        (OVER, 20.0 + NORMAL - 0.01, "the emergency input has been normal for less than 2 s"),
    ],
)
def test_a_reset_that_is_refused_says_why_and_changes_nothing(
    before: Emergency, at: float, why_not: str
) -> None:
    assert reset(before, at=at) == (before, why_not)


def test_a_reset_ends_a_latched_emergency_once_the_input_has_been_normal_for_long_enough() -> None:
    after, why_not = reset(OVER, at=20.0 + NORMAL)
    assert (after.on, why_not) == (False, "")


def test_a_latch_found_at_the_start_is_an_emergency() -> None:
    assert Emergency(latched=True).on


# ---- whatever the input does, and whenever somebody looks

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["active", "normal", "look", "reset"]),
        st.sampled_from([0.0, 0.02, 0.05, 0.09, 0.1, 0.5, 1.0, 1.9, 2.0, 5.0]),
    ),
    max_size=30,
)


@given(steps=STEPS, automatic=st.booleans())
@settings(max_examples=300, deadline=None)
def test_nothing_ends_an_emergency_while_the_input_is_active_and_a_short_one_never_latches(
    steps: list[tuple[str, float]], automatic: bool
) -> None:
    emergency, at = Emergency(), 0.0
    active_since = normal_since = 0.0
    longest = 0.0  # that the input has been active without a break since the last emergency ended
    for what, pause in steps:
        before = emergency
        at = round(at + pause, 3)
        if before.active:
            longest = max(longest, at - active_since)
        match what:
            case "active" | "normal":
                emergency, came = input_changed(before, active=what == "active", at=at)
            case "look":
                emergency, came = time_passed(before, at=at, automatic=automatic)
            case _:
                emergency, why_not = reset(before, at=at)
                came = Came.ENDED if before.on and not why_not else Came.NOTHING
        if emergency.active != before.active:
            active_since = at if emergency.active else active_since
            normal_since = normal_since if emergency.active else at

        assert emergency.on or not emergency.active
        assert (came is Came.BEGAN) == (emergency.on and not before.on)
        assert (came in (Came.DISTURBED, Came.ENDED)) == (before.on and not emergency.on)
        if came is Came.DISTURBED:
            assert longest < LATCHES
        if came is Came.LATCHED:
            assert emergency.latched
            assert not before.latched
            assert longest >= LATCHES - 1e-9
        if came is Came.ENDED:
            assert not before.active
            assert at - normal_since >= NORMAL
            assert automatic or what == "reset"
        if not emergency.on:
            longest = 0.0
