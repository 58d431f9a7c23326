from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.overlay import NOTHING, Movement, left, overlay_of, used
from gated.core.scan import Direction
from gated.core.ticket import Ticket

NOON = datetime(2027, 7, 16, 12, 0, 0, tzinfo=UTC)


def ticket(remaining: int | None, count: int, most: int | None = None) -> Ticket:
    return Ticket(barcode_id="T1", remaining=remaining, checked_in=count, max_checkins=most)


def entry(acknowledged: bool, count_before: int = 0, left_before: int = 1, minute: int = 0) -> Movement:
    time = NOON + timedelta(minutes=minute)
    return Movement(Direction.ENTRY, acknowledged, count_before, left_before, time, "North")


def exit_(acknowledged: bool, count_before: int = 1, left_before: int = 0, minute: int = 0) -> Movement:
    return replace(entry(acknowledged, count_before, left_before, minute), direction=Direction.EXIT)


PENDING, ACKNOWLEDGED = False, True


@pytest.mark.parametrize(
    ("name", "row", "movements", "taken", "remains"),
    [
        ("nothing happened here", ticket(2, 1), [], 1, 2),
        ("not sent yet", ticket(1, 0), [entry(PENDING)], 1, 0),
        ("sent, the server lags", ticket(1, 0), [entry(ACKNOWLEDGED)], 1, 0),
        ("sent, the server counts it", ticket(0, 1), [entry(ACKNOWLEDGED)], 1, 0),
        ("one sent and counted, one not sent", ticket(2, 1), [entry(ACKNOWLEDGED), entry(PENDING, 1)], 2, 1),
        (
            "one sent, the server lags, one not sent",
            ticket(3, 0),
            [entry(ACKNOWLEDGED), entry(PENDING)],
            2,
            1,
        ),
        ("another gate's check-in", ticket(1, 1), [], 1, 1),
        ("another gate's check-in and ours, not sent", ticket(1, 1), [entry(PENDING)], 2, 0),
        ("another gate's and ours, both counted", ticket(1, 2), [entry(ACKNOWLEDGED)], 2, 1),
        ("ours after another gate's, the server lags", ticket(2, 1), [entry(ACKNOWLEDGED, 1)], 2, 1),
        ("a settled one before, the server lags", ticket(1, 1), [entry(ACKNOWLEDGED, 1)], 2, 0),
        ("the organiser reset it, ours is not settled", ticket(1, 0), [entry(ACKNOWLEDGED)], 1, 0),
        ("the organiser reset it, ours is settled", ticket(1, 0), [], 0, 1),
        ("no remaining, a maximum", ticket(None, 1, most=3), [entry(PENDING, 1)], 2, 1),
        ("sent after the row was asked for", ticket(3, 0), [replace(entry(ACKNOWLEDGED), newer=True)], 1, 2),
        (
            "another gate's and ours counted, one more sent after the row was asked for",
            ticket(1, 2),
            [entry(ACKNOWLEDGED), replace(entry(ACKNOWLEDGED, 2), newer=True)],
            3,
            0,
        ),
        ("neither", ticket(None, 0), [entry(PENDING)], 1, 0),
    ],
)
def test_the_formula(name, row, movements, taken, remains):
    overlay = overlay_of(movements)
    assert used(row, overlay) == taken
    assert left(row, overlay, reentry_after_checkout=False) == remains


IN = entry(PENDING)
OUT = exit_(PENDING)


@pytest.mark.parametrize(
    ("name", "row", "movements", "remains"),
    [
        ("in, out", ticket(1, 0), [IN, OUT], 1),
        ("in, out, in", ticket(1, 0), [IN, OUT, entry(PENDING, 1)], 0),
        ("in, out, in, out", ticket(1, 0), [IN, OUT, entry(PENDING, 1), exit_(PENDING, 2)], 1),
        ("the entry settled, out", ticket(0, 1), [OUT], 1),
        ("the server gave it back: more remains", ticket(1, 1), [exit_(ACKNOWLEDGED)], 1),
        ("the server gave it back: it counts less", ticket(1, 0), [exit_(ACKNOWLEDGED)], 1),
        ("both shown, and given back", ticket(1, 1), [entry(ACKNOWLEDGED), exit_(ACKNOWLEDGED)], 1),
        ("given back and used again", ticket(1, 1), [exit_(ACKNOWLEDGED), entry(PENDING, 1)], 0),
        ("given back, used again, all shown", ticket(0, 2), [exit_(ACKNOWLEDGED), entry(ACKNOWLEDGED, 1)], 0),
        ("the server does not give back", ticket(0, 1), [exit_(ACKNOWLEDGED)], 1),
        ("the organiser took the rest away", ticket(-1, 1), [exit_(ACKNOWLEDGED)], 0),
        ("nobody left", ticket(1, 0), [IN], 0),
    ],
)
def test_a_check_out_gives_one_entry_back_and_not_a_second_one_when_the_server_does_so_too(
    name, row, movements, remains
):
    assert left(row, overlay_of(movements), reentry_after_checkout=True) == remains


def test_the_latest_entry_and_the_latest_movement_are_told_apart():
    overlay = overlay_of(
        [entry(ACKNOWLEDGED, minute=0), entry(PENDING, 1, minute=1), exit_(PENDING, minute=2)]
    )
    assert (overlay.acknowledged, overlay.pending, overlay.exits) == (1, 1, 1)
    assert overlay.last_entry is not None
    assert overlay.last is not None
    assert (overlay.last_entry.time.minute, overlay.last.time.minute) == (1, 2)
    assert overlay.last.direction is Direction.EXIT


def test_no_movements_are_the_empty_overlay():
    assert overlay_of([]) == NOTHING


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.builds(entry, st.booleans(), st.integers(0, 4), st.integers(-1, 4)), max_size=5),
)
def test_a_movement_of_ours_never_leaves_more_than_the_server_says(remaining, count, movements):
    row = ticket(remaining, count)
    overlay = overlay_of(movements)
    assert used(row, overlay) >= count + overlay.pending
    assert left(row, overlay, reentry_after_checkout=False) <= remaining - overlay.pending
