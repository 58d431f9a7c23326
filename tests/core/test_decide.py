from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.decide import RULES, Now, Rules, decide
from gated.core.overlay import NOTHING, Movement, Overlay, overlay_of
from gated.core.scan import Direction, LaneName, Moment, Scan, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Reason, Verdict

NOON = datetime(2027, 7, 16, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
KNOWN = Now(NOON, TimeTrust.SYNCHRONISED)
UNKNOWN_TIME = Now(NOON, TimeTrust.UNKNOWN)

GOOD = Ticket(barcode_id="T1", type_id="vip-id", type_name="VIP", checkin_allowed=True, remaining=1)


def scan(direction: Direction) -> Scan:
    at = Moment(NOON, TimeTrust.SYNCHRONISED, 1.0, "boot")
    return Scan(ScanId(UUID(int=1)), "T1", LaneName("lane"), direction, at)


def enter(
    ticket: Ticket | None, overlay: Overlay = NOTHING, rules: Rules | None = None, now: Now = KNOWN
) -> Verdict:
    return decide(scan(Direction.ENTRY), ticket, overlay, rules or Rules(), now)


def leave(ticket: Ticket | None, overlay: Overlay = NOTHING) -> Verdict:
    return decide(scan(Direction.EXIT), ticket, overlay, Rules(), KNOWN)


def moved(direction: Direction, at: datetime = NOON, *, lane: str = "North", left: int = 1) -> Movement:
    return Movement(direction, False, count_before=0, left_before=left, time=at, lane=lane)


def entered(at: datetime = NOON) -> Overlay:
    return overlay_of([moved(Direction.ENTRY, at)])


def said(verdict: Verdict) -> tuple[int | None, str]:
    return verdict.code, verdict.reason


# ---- entry: one change to a good ticket for each row, in the order of the rows

OVER = {"expire_from": NOON}
EARLY = {"valid_from": NOON + SECOND}

ENTRY_ROWS: list[tuple[str, dict[str, object], tuple[int, str]]] = [
    ("cancelled", {"canceled": True}, (45, "canceled")),
    ("row unreadable", {"unreadable": "remaining"}, (45, "bad_data")),
    ("check-in not allowed", {"checkin_allowed": False}, (45, "not_allowed")),
    ("expired", OVER, (60, "expired")),
    ("too early", EARLY, (45, "too_early")),
    ("nothing left", {"remaining": 0}, (50, "already_scanned")),
    ("good", {}, (100, "valid")),
]


@pytest.mark.parametrize(("name", "change", "answer"), ENTRY_ROWS)
def test_each_row_of_the_entry_table_answers_for_its_own_case(name, change, answer):
    assert said(enter(GOOD._replace(**change))) == answer


@pytest.mark.parametrize("earlier", range(len(ENTRY_ROWS)))
def test_the_earlier_of_two_rows_answers(earlier: int):
    _, change, answer = ENTRY_ROWS[earlier]
    for _, other, _ in ENTRY_ROWS[earlier:]:
        assert said(enter(GOOD._replace(**{**other, **change}))) == answer


def test_a_barcode_that_nobody_knows_is_unknown():
    assert said(enter(None)) == (40, "unknown")


def test_an_unknown_barcode_stays_unknown_whatever_the_overlay_says():
    assert said(enter(None, replace(entered(), lapsed=True))) == (40, "unknown")


def test_a_lapsed_grant_is_granted_again_although_nothing_is_left():
    lapsed = replace(entered(), lapsed=True)
    assert said(enter(GOOD._replace(remaining=0), lapsed)) == (100, "regrant")


@pytest.mark.parametrize(("name", "change", "answer"), ENTRY_ROWS[:5])
def test_a_lapsed_grant_is_not_granted_again_to_a_ticket_that_is_no_longer_good(name, change, answer):
    assert said(enter(GOOD._replace(**change), replace(entered(), lapsed=True))) == answer


# ---- exit


IN = {"checked_in": 1, "last_checked_in": NOON}


@pytest.mark.parametrize(
    ("ticket", "overlay", "answer"),
    [
        (None, NOTHING, (230, "not_in_service")),
        (None, entered(), (230, "not_in_service")),
        (GOOD, NOTHING, (220, "not_checked_in")),
        (GOOD._replace(last_checked_out=NOON), NOTHING, (220, "not_checked_in")),
        (GOOD._replace(**IN, last_checked_out=NOON), NOTHING, (210, "already_checked_out")),
        (GOOD._replace(checked_in=1, last_checked_out=NOON), NOTHING, (210, "already_checked_out")),
        (GOOD._replace(**IN), overlay_of([moved(Direction.EXIT)]), (210, "already_checked_out")),
        (GOOD._replace(**IN), NOTHING, (200, "checked_out")),
        (GOOD._replace(checked_in=1), NOTHING, (200, "checked_out")),
        (GOOD._replace(last_checked_in=NOON), NOTHING, (200, "checked_out")),
        (GOOD._replace(**IN, last_checked_out=NOON - SECOND), NOTHING, (200, "checked_out")),
        (GOOD, entered(), (200, "checked_out")),
        (GOOD._replace(**IN, last_checked_out=NOON + SECOND), entered(), (200, "checked_out")),
        (
            GOOD,
            overlay_of([moved(Direction.ENTRY), moved(Direction.EXIT)]),
            (210, "already_checked_out"),
        ),
        (
            GOOD,
            overlay_of([moved(Direction.EXIT), moved(Direction.ENTRY)]),
            (200, "checked_out"),
        ),
    ],
)
def test_the_exit_table(ticket, overlay, answer):
    assert said(leave(ticket, overlay)) == answer


@pytest.mark.parametrize(("name", "change", "answer"), ENTRY_ROWS)
def test_what_denies_an_entry_never_keeps_a_guest_in(name, change, answer):
    assert said(leave(GOOD._replace(**change, **IN))) == (200, "checked_out")


# ---- windows


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ({"expire_from": NOON}, Reason.EXPIRED),
        ({"expire_from": NOON + SECOND}, Reason.VALID),
        ({"valid_till": NOON}, Reason.VALID),
        ({"valid_till": NOON - SECOND}, Reason.EXPIRED),
        ({"valid_from": NOON}, Reason.VALID),
        ({"valid_from": NOON + SECOND}, Reason.TOO_EARLY),
        ({"valid_from": NOON, "valid_till": NOON}, Reason.VALID),
        ({"valid_from": NOON + SECOND, "valid_till": NOON - SECOND}, Reason.EXPIRED),
    ],
)
def test_the_boundary_instants_of_the_windows(window, reason):
    assert enter(GOOD._replace(**window)).reason is reason


@pytest.mark.parametrize(
    "window",
    [
        {"expire_from": NOON - 2 * SECOND, "valid_till": NOON - SECOND},
        {"expire_from": NOON - SECOND, "valid_till": NOON - 2 * SECOND},
        {"expire_from": NOON - 2 * SECOND, "valid_till": NOON + SECOND},
        {"expire_from": NOON + SECOND, "valid_till": NOON - 2 * SECOND},
    ],
)
def test_an_expired_ticket_says_since_when_by_the_earlier_limit(window):
    assert enter(GOOD._replace(**window)).time == NOON - 2 * SECOND


def test_a_ticket_that_is_too_early_says_from_when_it_is_good():
    assert enter(GOOD._replace(**EARLY)).time == NOON + SECOND


def test_while_the_time_is_unknown_its_lower_bound_may_expire_a_ticket():
    assert enter(GOOD._replace(**OVER), now=UNKNOWN_TIME).reason is Reason.EXPIRED


def test_while_the_time_is_unknown_no_ticket_is_too_early():
    assert enter(GOOD._replace(**EARLY), now=UNKNOWN_TIME).reason is Reason.VALID


# ---- what is left


@pytest.mark.parametrize(
    ("counters", "reason"),
    [
        ({"remaining": 1, "max_checkins": 1, "checked_in": 1}, Reason.VALID),
        ({"remaining": 0, "max_checkins": 5}, Reason.ALREADY_SCANNED),
        ({"remaining": -1}, Reason.ALREADY_SCANNED),
        ({"remaining": None, "max_checkins": 2, "checked_in": 1}, Reason.VALID),
        ({"remaining": None, "max_checkins": 2, "checked_in": 2}, Reason.ALREADY_SCANNED),
        ({"remaining": None, "max_checkins": 0}, Reason.ALREADY_SCANNED),
        ({"remaining": None}, Reason.VALID),
        ({"remaining": None, "checked_in": 1}, Reason.ALREADY_SCANNED),
    ],
)
def test_remaining_leads_then_the_maximum_then_one_entry(counters, reason):
    assert enter(GOOD._replace(**counters)).reason is reason


def test_a_second_entry_says_when_and_at_which_lane_the_first_was():
    verdict = enter(GOOD, entered(NOON - SECOND))
    assert (verdict.code, verdict.time, verdict.lane) == (50, NOON - SECOND, "North")


def test_an_entry_elsewhere_says_when_and_no_lane():
    verdict = enter(GOOD._replace(remaining=0, **IN))
    assert (verdict.code, verdict.time, verdict.lane) == (50, NOON, None)


BEEN_OUT = overlay_of([moved(Direction.ENTRY), moved(Direction.EXIT)])


@pytest.mark.parametrize(
    ("reentry", "overlay", "reason"),
    [
        (False, BEEN_OUT, Reason.ALREADY_SCANNED),
        (True, BEEN_OUT, Reason.VALID),
        (True, entered(), Reason.ALREADY_SCANNED),
        (
            True,
            overlay_of([moved(Direction.ENTRY), moved(Direction.EXIT), moved(Direction.ENTRY)]),
            Reason.ALREADY_SCANNED,
        ),
    ],
)
def test_a_check_out_gives_an_entry_back_only_where_re_entry_is_set(reentry, overlay, reason):
    assert enter(GOOD, overlay, Rules(reentry_after_checkout=reentry)).reason is reason


# ---- types


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        (set(), Reason.VALID),
        ({"vip-id"}, Reason.VALID),
        ({"VIP"}, Reason.VALID),
        ({"Child", "VIP"}, Reason.VALID),
        ({"Child"}, Reason.NOT_ALLOWED),
        ({"vip"}, Reason.NOT_ALLOWED),
    ],
)
def test_types_of_a_lane_and_of_a_service_are_ids_or_names(types, reason):
    assert enter(GOOD, rules=Rules(lane_types=frozenset(types))).reason is reason
    assert enter(GOOD, rules=Rules(service_types=frozenset(types))).reason is reason


def test_a_ticket_has_to_suit_both_the_lane_and_the_service():
    both = Rules(lane_types=frozenset({"VIP"}), service_types=frozenset({"Child"}))
    assert enter(GOOD, rules=both).reason is Reason.NOT_ALLOWED


# ---- what always holds

instants = st.sampled_from([None, NOON - SECOND, NOON, NOON + SECOND])
small = st.integers(-1, 3)
type_sets = st.sampled_from([frozenset(), frozenset({"VIP"}), frozenset({"Child"})])
tickets = st.none() | st.builds(
    Ticket,
    barcode_id=st.just("T1"),
    type_name=st.sampled_from(["", "VIP"]),
    checkin_allowed=st.booleans(),
    canceled=st.booleans(),
    expire_from=instants,
    valid_from=instants,
    valid_till=instants,
    max_checkins=st.none() | small,
    remaining=st.none() | small,
    checked_in=st.integers(0, 3),
    last_checked_in=instants,
    last_checked_out=instants,
    unreadable=st.sampled_from(["", "remaining"]),
)
movements = st.builds(
    Movement,
    direction=st.sampled_from(Direction),
    acknowledged=st.booleans(),
    count_before=st.integers(0, 3),
    left_before=small,
    time=st.just(NOON),
    lane=st.just("North"),
)
overlays = st.builds(overlay_of, st.lists(movements, max_size=4), lapsed=st.booleans())
rule_sets = st.builds(Rules, type_sets, type_sets, st.booleans())
times = st.builds(Now, st.just(NOON), st.sampled_from(TimeTrust))

REASONS_OF_A_CODE = {
    40: {Reason.UNKNOWN},
    45: {Reason.CANCELED, Reason.BAD_DATA, Reason.NOT_ALLOWED, Reason.TOO_EARLY},
    50: {Reason.ALREADY_SCANNED},
    60: {Reason.EXPIRED},
    100: {Reason.VALID, Reason.REGRANT},
    200: {Reason.CHECKED_OUT},
    210: {Reason.ALREADY_CHECKED_OUT},
    220: {Reason.NOT_CHECKED_IN},
    230: {Reason.NOT_IN_SERVICE},
}


@given(st.sampled_from(Direction), tickets, overlays, rule_sets, times)
def test_every_question_is_answered_by_a_code_of_its_direction_with_a_reason_that_suits(
    direction, ticket, overlay, rules, now
):
    verdict = decide(scan(direction), ticket, overlay, rules, now)
    assert verdict.code is not None
    assert (verdict.code >= 200) == (direction is Direction.EXIT)
    assert verdict.reason in REASONS_OF_A_CODE[verdict.code]
    assert verdict.admitted == (verdict.code in (100, 200))


@given(tickets, overlays, rule_sets, times)
def test_no_ticket_that_is_cancelled_unreadable_or_not_allowed_is_let_in(ticket, overlay, rules, now):
    bad = ticket is None or ticket.canceled or ticket.unreadable or not ticket.checkin_allowed
    assert not (bad and enter(ticket, overlay, rules, now).admitted)


def test_no_two_rules_of_a_direction_have_the_same_name():
    for rules in RULES.values():
        names = [name for name, _ in rules]
        assert len(set(names)) == len(names)
