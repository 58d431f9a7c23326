from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from gated.core.outbox import Kind, UploadRules, Window
from gated.core.scan import Direction, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.desk import Decided, Reply, Terms
from gated.store.journal import Passage
from gated.store.memory import DeskRules
from tests.store.desks import ASK_ALL, ASK_UNKNOWN, NOON, Counter, moment, scan, ticket

MINUTE = 60.0
ADMITTED = admit(100, Reason.VALID)


@pytest.fixture
def counter(tmp_path: Path):
    counter = Counter(tmp_path)
    yield counter
    counter.close()


def reason(counter: Counter, barcode: str = "T1", seconds: float = 0.0, **at: str) -> Reason:
    return counter.decide(scan(barcode, moment(seconds), **at)).verdict.reason


def leave(counter: Counter, seconds: float = 0.0) -> Reason:
    return counter.decide(scan("T1", moment(seconds), direction=Direction.EXIT)).verdict.reason


# ---- look-up


def test_a_ticket_is_found_by_its_barcode_id_and_by_its_external_id(counter):
    counter.load(ticket("T1", external_barcode_id="X1"), ticket("T2"))
    decided = counter.decide(scan("X1"))
    assert decided.ticket is not None
    assert (decided.verdict.reason, decided.ticket.barcode_id) == (Reason.VALID, "T1")
    assert reason(counter, "T1") is Reason.ALREADY_SCANNED


def test_two_tickets_for_one_text_admit_nobody(counter):
    counter.load(ticket("T1", external_barcode_id="T2"), ticket("T2"))
    decided = counter.decide(scan("T2"), ASK_ALL)
    assert (decided.verdict.admitted, decided.verdict.code) == (False, None)
    assert decided.verdict.reason is Reason.AMBIGUOUS
    assert reason(counter, "T1") is Reason.VALID


def test_an_unknown_ticket_is_not_ready_until_the_mirror_is_whole(counter):
    assert reason(counter) is Reason.NOT_READY
    assert counter.outbox.size().others == 0
    counter.load(ticket("T2"))
    assert reason(counter) is Reason.UNKNOWN


def test_a_known_ticket_is_decided_before_the_mirror_is_whole(counter):
    counter.mirror.put([ticket()], asked_ms=0, run=1)
    assert reason(counter) is Reason.VALID


def test_a_malformed_read_is_written_down_without_a_ticket(counter):
    counter.desk.write_undecided(scan(""), deny(None, Reason.MALFORMED))
    assert counter.journal_db.execute("SELECT ticket, reason FROM scan").fetchall() == [(None, "malformed")]


# ---- the overlay, from a history


def test_a_restart_does_not_forget_who_is_in(tmp_path):
    before = Counter(tmp_path)
    before.load(ticket())
    assert reason(before, lane="North") is Reason.VALID
    before.close()
    after = Counter(tmp_path)
    verdict = after.decide(scan(at=moment(5.0, boot="next"))).verdict
    assert (verdict.code, verdict.time, verdict.lane) == (50, NOON, "North")
    after.close()


@pytest.mark.parametrize(
    ("row_asked_after", "reset_shows"),
    [(0, False), (9 * MINUTE + 59, False), (10 * MINUTE, True)],
)
def test_an_organisers_reset_counts_from_ten_minutes_after_the_acknowledgement(
    counter, row_asked_after, reset_shows
):
    counter.load(ticket())
    assert reason(counter) is Reason.VALID
    counter.upload(MINUTE)
    counter.load(ticket(remaining=1, checked_in=0), asked=MINUTE + row_asked_after)
    assert (reason(counter, seconds=3600) is Reason.VALID) is reset_shows


def test_what_the_server_has_not_acknowledged_never_settles(counter):
    counter.load(ticket())
    assert reason(counter) is Reason.VALID
    counter.load(ticket(), asked=24 * 3600)
    assert reason(counter, seconds=24 * 3600) is Reason.ALREADY_SCANNED


def test_a_server_that_lags_with_the_second_of_two_check_ins_admits_no_third(counter):
    counter.load(ticket(remaining=2))
    assert reason(counter) is Reason.VALID
    counter.upload(1.0)
    assert reason(counter, seconds=9 * MINUTE) is Reason.VALID
    counter.upload(9 * MINUTE)
    counter.load(ticket(remaining=1, checked_in=1), asked=11 * MINUTE)  # the first has settled
    assert reason(counter, seconds=11 * MINUTE) is Reason.ALREADY_SCANNED


def test_a_server_that_lags_with_the_first_of_two_check_ins_admits_no_third(counter):
    counter.load(ticket(remaining=2))
    assert reason(counter) is Reason.VALID
    second = counter.decide(scan())
    assert second.seq is not None
    counter.outbox.acknowledge_one(second.seq, 1000)
    counter.upload(9 * MINUTE)
    counter.load(ticket(remaining=1, checked_in=1), asked=11 * MINUTE)  # shows the second alone
    assert reason(counter, seconds=11 * MINUTE) is Reason.ALREADY_SCANNED


def test_a_quiet_day_before_a_restart_does_not_make_old_rows_pass_for_new_ones(tmp_path):
    before = Counter(tmp_path)
    before.load(ticket(), asked=24 * 3600)
    before.close()
    after = Counter(tmp_path)
    assert reason(after, seconds=1.0) is Reason.VALID
    after.upload(2.0)
    assert reason(after, seconds=3.0) is Reason.ALREADY_SCANNED
    after.close()


def test_a_check_out_that_the_server_gives_back_too_lets_one_guest_in(tmp_path):
    counter = Counter(tmp_path, DeskRules(reentry_after_checkout=True))
    counter.load(ticket())
    assert [reason(counter), leave(counter)] == [Reason.VALID, Reason.CHECKED_OUT]
    counter.upload(1.0)
    counter.load(ticket(remaining=1, checked_in=1), asked=2.0)
    assert reason(counter, seconds=3.0) is Reason.VALID
    assert reason(counter, seconds=4.0) is Reason.ALREADY_SCANNED
    counter.close()


def test_an_external_id_asked_about_before_its_download_is_not_admitted_again(counter):
    counter.load()
    ask = counter.ask(scan("X1"), ASK_UNKNOWN)
    counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=0.5))
    counter.load(ticket("T1", external_barcode_id="X1"), asked=1.0)  # the server lags
    assert reason(counter, "X1", seconds=2.0) is Reason.ALREADY_SCANNED


# ---- questions


@pytest.mark.parametrize(
    ("name", "fields", "terms", "asked"),
    [
        ("a good ticket, local", {}, Terms(), False),
        ("a good ticket, direct", {}, Terms(ask_known=True), True),
        (
            "a cancelled one, direct: the server may know better",
            {"canceled": True},
            Terms(ask_known=True),
            True,
        ),
        (
            "of another type than the lane's",
            {"type_name": "Child"},
            Terms(frozenset({"VIP"}), ask_known=True),
            False,
        ),
        (
            "of the lane's type",
            {"type_name": "VIP"},
            Terms(frozenset({"VIP"}), ask_known=True),
            True,
        ),
    ],
)
def test_which_known_tickets_the_server_is_asked_about(counter, name, fields, terms, asked):
    counter.load(ticket(**fields))
    answer = counter.desk.decide(scan(), terms)
    assert hasattr(answer, "fallback") is asked


ENTRY, EXIT = Direction.ENTRY, Direction.EXIT
TYPED = Terms(frozenset({"VIP"}), ask_known=True, ask_unknown=True)
RATIONED = Terms(ask_unknown=True, rationed=True)
DIRECT_RATIONED = Terms(ask_known=True, ask_unknown=True, rationed=True)


@pytest.mark.parametrize(
    ("terms", "direction", "ready", "reason"),
    [
        pytest.param(Terms(), ENTRY, True, Reason.UNKNOWN, id="told not to ask"),
        pytest.param(ASK_UNKNOWN, ENTRY, True, None, id="asks"),
        pytest.param(ASK_UNKNOWN, ENTRY, False, None, id="asks before the mirror is whole"),
        pytest.param(RATIONED, ENTRY, False, None, id="asks without the cap before that"),
        pytest.param(RATIONED, ENTRY, True, Reason.BUSY, id="rationed"),
        pytest.param(TYPED, ENTRY, True, Reason.UNKNOWN, id="a lane with types"),
        pytest.param(ASK_UNKNOWN, EXIT, True, Reason.NOT_IN_SERVICE, id="an exit"),
        pytest.param(ASK_ALL, EXIT, True, None, id="an exit, direct"),
        pytest.param(ASK_ALL, ENTRY, True, None, id="direct"),
        pytest.param(Terms(ask_known=True), ENTRY, True, Reason.UNKNOWN, id="direct, told not to ask"),
        pytest.param(DIRECT_RATIONED, ENTRY, True, Reason.BUSY, id="direct, rationed"),
    ],
)
def test_which_unknown_tickets_the_server_is_asked_about(counter, terms, direction, ready, reason):
    if ready:
        counter.load()
    answer = counter.desk.decide(scan(direction=direction), terms)
    if reason is None:
        assert (answer.barcode_id, answer.ticket) == ("T1", None)
    else:
        assert answer.verdict.reason is reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, Reason.NO_ANSWER),
        ({"canceled": True}, Reason.CANCELED),
        ({"remaining": 0}, Reason.ALREADY_SCANNED),
    ],
    ids=["good", "cancelled", "used"],
)
def test_where_only_the_server_may_admit_and_can_not_be_asked_nobody_is_admitted(counter, fields, reason):
    counter.load(ticket(**fields))
    assert counter.decide(scan(), Terms(unasked=True)).verdict.reason is reason
    assert counter.outbox.size().check_ins == 0


def test_a_question_names_the_ticket_by_its_barcode_id(counter):
    counter.load(ticket("T1", external_barcode_id="X1"))
    assert counter.ask(scan("X1")).barcode_id == "T1"


def test_a_ticket_in_question_is_busy_elsewhere_until_the_answer_is_written(counter):
    counter.load(ticket("T1", external_barcode_id="X1"))
    ask = counter.ask(scan("X1"))
    assert reason(counter, "T1", lane="B") is Reason.BUSY
    counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=1.0))
    assert reason(counter, "T1", lane="B") is Reason.ALREADY_SCANNED


def test_a_ticket_in_question_stays_held_when_a_download_makes_it_known(counter):
    counter.load()
    ask = counter.ask(scan("X1"))
    counter.load(ticket("T1", external_barcode_id="X1"))
    assert reason(counter, "X1", lane="B") is Reason.BUSY
    counter.desk.settle(ask, Reply(deny(None, Reason.NO_ANSWER), Origin.FALLBACK))
    assert reason(counter, "X1", lane="B") is Reason.VALID


CALL = Window(int(NOON.timestamp()) - 5, int(NOON.timestamp()) + 11)


def calls_lost(counter: Counter) -> int:
    """How many there are once gated, ended now, has started again."""
    counter.journal.end_questions()
    query = "SELECT count(*) FROM scan WHERE call_from = ?"
    return int(counter.journal_db.execute(query, (CALL.start,)).fetchone()[0])


def test_a_question_without_an_answer_is_a_lost_call_after_a_restart_once(counter):
    counter.load(ticket())
    counter.desk.note(counter.ask(scan()), CALL)
    assert [calls_lost(counter), calls_lost(counter)] == [1, 1]


def test_a_question_with_an_answer_is_none_even_if_it_is_noted_afterwards(counter):
    counter.load(ticket(), ticket("T2"))
    before, after = counter.ask(scan()), counter.ask(scan("T2"))
    counter.desk.note(before, CALL)
    for ask in (before, after):
        counter.desk.settle(ask, Reply(deny(45, Reason.NOT_ALLOWED), ask.origin, answered=1.0))
    counter.desk.note(after, CALL)
    assert counter.journal_db.execute("SELECT 1 FROM meta WHERE key GLOB 'question:*'").fetchone() is None
    assert calls_lost(counter) == 0


def test_a_question_whose_answer_waits_for_the_disk_is_a_lost_call_until_that_is_written(counter):
    counter.load(ticket())
    ask = counter.ask(scan())
    counter.desk.note(ask, CALL)
    with counter.disk_failing():
        counter.desk.settle(ask, Reply(deny(50, Reason.ALREADY_SCANNED, time=NOON), ask.origin, answered=1.0))
        again = counter.ask(scan("T1"))
        told = counter.desk.settle(again, Reply(deny(50, Reason.ALREADY_SCANNED, time=NOON), again.origin))
        assert not told.verdict.admitted  # it was another's check-in, and the guest was told so before
    assert counter.desk.write_waiting() == 0
    assert calls_lost(counter) == 0


def test_a_question_that_ends_late_takes_no_running_time_back(counter):
    counter.load(ticket(), ticket("T2"))
    counter.desk.note(counter.ask(scan()), CALL)
    counter.decide(scan("T2", moment(5.0)))
    assert (calls_lost(counter), counter.journal.ran_until_ms()) == (1, 5000)


def test_a_question_that_is_being_asked_goes_on(counter):
    counter.load(ticket())
    counter.desk.note(counter.ask(scan()), CALL)
    counter.journal.end_questions(besides=counter.memory.asked)
    assert counter.journal_db.execute("SELECT count(*) FROM scan").fetchone() == (0,)


def test_a_question_is_not_noted_while_the_disk_fails(counter):
    counter.load(ticket())
    ask = counter.ask(scan())
    with counter.disk_failing():
        counter.desk.note(ask, CALL)
    assert calls_lost(counter) == 0


WHOLE = '["S1", "A", "entry", "00", "direct", 0, 1, 5, 1, 2, "boot", 1000, 1000, "unknown"]'


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{}",
        "[1, 2]",
        WHOLE.replace("entry", "sideways"),
        WHOLE.replace('"A"', "{}"),
        WHOLE.replace('"A"', "null"),
        WHOLE.replace('"00"', "5"),
        WHOLE.replace("1000, 1000", "1000, 1e30"),
    ],
)
def test_a_noted_question_that_was_damaged_is_forgotten(counter, note):
    for number, text in enumerate((note, WHOLE)):
        counter.journal.set_note(f"question:{UUID(int=number).hex}", text)
    counter.journal_db.execute("INSERT INTO meta VALUES ('question:no text', CAST(x'FFFE' AS TEXT))")
    counter.journal.end_questions()
    assert counter.journal_db.execute("SELECT lane, call_to FROM scan").fetchall() == [("A", 2)]
    assert counter.journal_db.execute("SELECT 1 FROM meta WHERE key GLOB 'question:*'").fetchone() is None


def test_a_ticket_that_the_server_does_not_know_to_be_in_is_decided_here(counter):
    counter.load(ticket())
    ask = counter.ask(scan())
    assert counter.desk.settle(ask, Reply(ask.fallback, Origin.FALLBACK)).verdict.admitted
    assert counter.decide(scan(), ASK_ALL).verdict.reason is Reason.ALREADY_SCANNED
    out = counter.decide(scan(direction=Direction.EXIT), ASK_ALL)
    assert out.verdict.reason is Reason.CHECKED_OUT
    counter.upload(1.0)
    assert counter.ask(scan(), ASK_ALL).barcode_id == "T1"


@pytest.mark.parametrize(
    ("recorded", "origin", "in_outbox"), [(1.0, Origin.DIRECT, 0), (None, Origin.FALLBACK, 1)]
)
def test_an_admission_counts_whoever_decided_it_and_is_sent_only_if_the_server_has_it_not(
    counter, recorded, origin, in_outbox
):
    counter.load(ticket())
    ask = counter.ask(scan())
    counter.desk.settle(ask, Reply(ADMITTED, origin, answered=recorded))
    assert counter.outbox.size().check_ins == in_outbox
    assert reason(counter) is Reason.ALREADY_SCANNED


def test_a_late_answer_takes_the_scan_out_of_the_outbox(counter):
    counter.load(ticket())
    ask = counter.ask(scan())
    decided = counter.desk.settle(ask, Reply(ask.fallback, Origin.FALLBACK))
    assert decided.seq is not None
    counter.outbox.acknowledge_one(decided.seq, 2000)
    assert counter.outbox.size().check_ins == 0
    assert reason(counter) is Reason.ALREADY_SCANNED


def test_an_operators_release_checks_the_ticket_in(counter):
    counter.load(ticket(remaining=0))
    decided = counter.desk.override(scan())
    assert (decided.verdict.code, decided.origin) == (100, Origin.OVERRIDE)
    (row,) = counter.outbox.freeze("S1", 50, moment())
    assert (row.kind, row.barcode_id) == (Kind.CHECK_IN, "T1")


# ---- a question whose answer was lost, and whose guest did not get in

NO_ANSWER = Reply(deny(None, Reason.NO_ANSWER), Origin.FALLBACK)


def around(seconds: float) -> Window:
    """When the server may have carried out a call of that second."""
    unix = int(NOON.timestamp() + seconds)
    return Window(unix - 5, unix + 11)


def lose(counter: Counter, barcode: str = "T1", seconds: float = 0.0, lane: str = "A") -> Decided:
    """A question that is not answered in time; the gate is told not to decide by itself."""
    ask = counter.ask(scan(barcode, moment(seconds), lane=lane))
    decided = counter.desk.settle(ask, replace(NO_ANSWER, call=around(seconds)))
    assert not decided.verdict.admitted
    return decided


def used_at(seconds: float) -> Verdict:
    return deny(50, Reason.ALREADY_SCANNED, time=NOON + timedelta(seconds=seconds))


def ask_again(
    counter: Counter, barcode: str = "T1", seconds: float = 10.0, lane: str = "A", used: float = 1.0
) -> bool:
    """Whether a guest is admitted whose ticket the server says was used at that second."""
    ask = counter.ask(scan(barcode, moment(seconds), lane=lane))
    decided = counter.desk.settle(ask, Reply(used_at(used), ask.origin, answered=seconds))
    return decided.verdict.admitted


def test_a_guest_whose_check_in_was_lost_is_admitted_once(counter):
    counter.load(ticket())
    lose(counter)
    assert [ask_again(counter, seconds=seconds) for seconds in (10.0, 20.0, 30.0)] == [True, False, False]
    assert counter.outbox.size().check_ins == 0  # the server has it


@pytest.mark.parametrize(("used", "admitted"), [(-6, False), (-5, True), (11, True), (12, False)])
def test_only_a_time_in_the_lost_calls_window_is_that_call(counter, used, admitted):
    counter.load(ticket())
    lose(counter)
    assert ask_again(counter, seconds=20.0, used=used) is admitted


@pytest.mark.parametrize(("seconds", "admitted"), [(120.0, True), (120.1, False)])
def test_a_lost_call_is_remembered_for_two_minutes(counter, seconds, admitted):
    counter.load(ticket())
    lose(counter)
    assert ask_again(counter, seconds=seconds) is admitted


@pytest.mark.parametrize("lane", ["A", "B"])
@pytest.mark.parametrize(("first", "then"), [("T1", "X1"), ("X1", "T1"), ("X1", "X1")])
def test_a_lost_call_is_the_tickets_at_any_lane_under_any_of_its_barcodes(counter, first, then, lane):
    counter.load(ticket("T1", external_barcode_id="X1"))
    lose(counter, first)
    assert ask_again(counter, then, lane=lane)


def test_a_lost_call_about_a_ticket_that_nobody_knew_counts_when_it_is_known(counter):
    counter.load()
    lose(counter, "X1")
    counter.load(ticket("T1", external_barcode_id="X1"), asked=5.0)
    assert ask_again(counter, "X1")
    assert reason(counter, "T1", seconds=11.0) is Reason.ALREADY_SCANNED


def test_a_lost_call_outlives_a_restart(tmp_path):
    before = Counter(tmp_path)
    before.load(ticket())
    lose(before)
    before.close()
    after = Counter(tmp_path)
    assert ask_again(after)
    assert not ask_again(after, seconds=20.0)
    after.close()


def test_another_tickets_lost_call_is_nobody_elses(counter):
    counter.load(ticket("T1"), ticket("T2"))
    lose(counter, "T1")
    assert not ask_again(counter, "T2")


def test_the_mirror_may_show_the_lost_call_as_well_as_an_answer(counter):
    counter.load()
    lose(counter)  # a ticket sold a minute ago: asked about in the local strategy too
    shown = ticket(remaining=0, checked_in=1, last_checked_in=NOON + timedelta(seconds=1))
    counter.load(shown, asked=5.0)
    first = counter.decide(scan(at=moment(10.0)))
    assert (first.verdict, first.origin) == (ADMITTED, Origin.LOCAL)
    assert counter.outbox.size().check_ins == 0  # the server has it
    assert reason(counter, seconds=20.0) is Reason.ALREADY_SCANNED


def test_who_was_admitted_just_before_a_lost_call_is_not_admitted_by_it(counter):
    counter.load(ticket())
    ask = counter.ask(scan())
    assert counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=0.5)).verdict.admitted
    lose(counter, seconds=3.0)  # a copy: the server says "used", and the answer is lost
    assert not ask_again(counter, seconds=10.0, used=0.0)


def test_who_was_admitted_just_after_a_lost_call_is_not_admitted_by_it_too(counter):
    counter.load(ticket())
    lose(counter)  # it never arrived
    ask = counter.ask(scan(at=moment(4.0)))
    assert counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=4.5)).verdict.admitted
    assert not ask_again(counter, seconds=8.0, used=4.0)


def test_a_lost_call_that_a_late_answer_denied_admits_nobody(counter):
    counter.load(ticket())
    lost = lose(counter)
    counter.outbox.found_not_recorded(lost.seq)
    assert not ask_again(counter, used=-2.0)


def test_a_lost_check_out_admits_nobody(counter):
    counter.load(ticket(checked_in=1, last_checked_in=NOON - timedelta(hours=1)))
    ask = counter.ask(scan(direction=EXIT))
    counter.desk.settle(ask, replace(NO_ANSWER, call=around(0.0)))
    assert not ask_again(counter)


def test_a_lost_call_admits_once_although_the_disk_fails(counter):
    counter.load(ticket())
    lose(counter)
    with counter.disk_failing():
        assert ask_again(counter)
        assert not ask_again(counter, seconds=20.0)
    assert not ask_again(counter, seconds=30.0)


# ---- checked in too often

TWICE = ticket(remaining=0, checked_in=2, max_checkins=1, last_checked_in=NOON)


def test_a_double_is_told_once_for_each_count_with_the_times_at_this_gate(counter):
    counter.load(ticket("T1", remaining=2, max_checkins=1))
    for seconds in (0.0, 60.0):
        assert reason(counter, seconds=seconds) is Reason.VALID
    (double,) = counter.desk.doubles([TWICE])
    assert double.ticket.last_checked_in == NOON
    assert double.here == (NOON, NOON + timedelta(minutes=1))
    assert counter.desk.doubles([TWICE]) == ()
    (more,) = counter.desk.doubles([TWICE._replace(checked_in=3)])
    assert more.ticket.checked_in == 3


def test_a_double_that_this_gate_has_no_part_in_is_another_gates_to_tell(counter):
    counter.load(ticket("T1"), ticket("T2", remaining=0))
    assert reason(counter, "T2") is Reason.ALREADY_SCANNED
    assert counter.desk.doubles([TWICE, TWICE._replace(barcode_id="T2")]) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"checked_in": 2, "max_checkins": 2},
        {"checked_in": 2, "max_checkins": 0},
        {"checked_in": 1, "max_checkins": 1},
        {"checked_in": 2, "max_checkins": None},
    ],
    ids=str,
)
def test_what_a_ticket_allows_is_no_double(counter, fields):
    counter.load(ticket())
    assert reason(counter) is Reason.VALID
    assert counter.desk.doubles([TWICE._replace(**fields)]) == ()


def test_a_guest_asked_about_by_an_external_id_before_the_download_has_a_part_in_a_double(counter):
    counter.load()
    ask = counter.ask(scan("X1"), ASK_UNKNOWN)
    counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=0.5))
    (double,) = counter.desk.doubles([TWICE._replace(external_barcode_id="X1")])
    assert double.here == (NOON,)


def test_a_double_is_told_again_once_the_organiser_has_reset_its_ticket(counter):
    counter.load(ticket("T1", remaining=2, max_checkins=1), ticket("T2"))
    assert reason(counter) is Reason.VALID
    assert len(counter.desk.doubles([TWICE])) == 1
    assert counter.desk.doubles([ticket("T2"), TWICE]) == ()
    assert counter.desk.doubles([ticket("T1")]) == ()
    assert len(counter.desk.doubles([TWICE])) == 1


def test_many_doubles_are_told_in_one_commit(counter):
    tickets = [f"T{number}" for number in range(20)]
    counter.load(*(ticket(each) for each in tickets))
    for each in tickets:
        assert reason(counter, each) is Reason.VALID
    commits: list[str] = []
    counter.journal_db.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    assert len(counter.desk.doubles([TWICE._replace(barcode_id=each) for each in tickets])) == 20
    assert len(commits) == 1


# ---- re-grants


def lapse(counter: Counter, seconds: float = 0.0) -> None:
    decided = counter.decide(scan(at=moment(seconds)))
    assert decided.verdict.admitted
    counter.journal.set_passage(decided.seq, Passage.NOT_TAKEN)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1.0, Reason.REGRANT), (900.0, Reason.REGRANT), (901.0, Reason.ALREADY_SCANNED)]
)
def test_a_lapsed_grant_is_granted_again_at_any_lane_for_fifteen_minutes(counter, seconds, expected):
    counter.load(ticket())
    lapse(counter)
    assert reason(counter, seconds=seconds, lane="B") is expected


def test_a_lapsed_grant_is_granted_again_once_and_not_sent_again(counter):
    counter.load(ticket())
    lapse(counter)
    again = counter.decide(scan(), ASK_ALL)
    assert (again.verdict.code, again.origin) == (100, Origin.REGRANT)
    counter.journal.set_passage(again.seq, Passage.NOT_TAKEN)
    assert reason(counter) is Reason.ALREADY_SCANNED
    assert counter.outbox.size().check_ins == 1


@pytest.mark.parametrize("passage", [Passage.TAKEN, Passage.UNKNOWN])
def test_without_a_sensor_that_saw_nobody_there_is_no_re_grant(counter, passage):
    counter.load(ticket())
    counter.journal.set_passage(counter.decide(scan()).seq, passage)
    assert reason(counter) is Reason.ALREADY_SCANNED


def test_who_went_out_was_in_whatever_the_sensor_saw(counter):
    counter.load(ticket())
    lapse(counter)
    assert leave(counter) is Reason.CHECKED_OUT
    assert reason(counter) is Reason.ALREADY_SCANNED


def test_a_lapsed_grant_of_a_ticket_cancelled_since_is_not_granted_again(counter):
    counter.load(ticket())
    lapse(counter)
    counter.load(ticket(canceled=True), asked=1.0)
    assert reason(counter) is Reason.CANCELED


# ---- types, time


@pytest.mark.parametrize(("read", "expected"), [(5.0, Reason.NOT_ALLOWED), (0.0, Reason.VALID)])
def test_the_services_types_count_only_if_read_after_the_tickets_row(counter, read, expected):
    counter.load(ticket(type_name="VIP"), asked=1.0)
    counter.memory.service_types = frozenset({"Child"})
    counter.memory.service_read_ms = counter.running.at(read)
    assert reason(counter) is expected


def test_the_last_time_on_disk_is_the_lower_bound_while_the_time_is_unknown(tmp_path):
    before = Counter(tmp_path)
    before.load(
        ticket("T1", expire_from=NOON - timedelta(hours=1)),
        ticket("T2", valid_from=NOON + timedelta(hours=1)),
        ticket("T3"),
    )
    assert reason(before, "T3") is Reason.VALID
    before.close()
    in_the_past = moment(9.0, TimeTrust.UNKNOWN, "next", NOON - timedelta(days=99))
    after = Counter(tmp_path)
    assert after.decide(scan("T1", in_the_past)).verdict.reason is Reason.EXPIRED
    assert after.decide(scan("T2", in_the_past)).verdict.reason is Reason.VALID
    (wall_ms,) = after.journal_db.execute("SELECT wall_ms FROM scan ORDER BY seq DESC LIMIT 1").fetchone()
    assert wall_ms == (NOON.timestamp() + 9.0) * 1000  # the seconds that the gate has run since count
    after.close()


def test_a_time_that_was_never_known_is_no_lower_bound(tmp_path):
    before = Counter(tmp_path)
    before.load(ticket("T1", expire_from=NOON))
    before.decide(scan("T2", moment(0.0, TimeTrust.UNKNOWN, wall=NOON + timedelta(days=99))))
    before.close()
    after = Counter(tmp_path)
    assert after.decide(scan("T1", moment(0.0, TimeTrust.UNKNOWN))).verdict.reason is Reason.VALID
    after.close()


# ---- a disk that fails


def test_a_disk_that_fails_keeps_no_guest_out_and_the_overlay_counts_in_memory(counter):
    counter.load(ticket())
    with counter.disk_failing():
        first = counter.decide(scan())
        assert (first.verdict.admitted, first.seq) == (True, None)
        assert reason(counter, lane="B") is Reason.ALREADY_SCANNED
        assert counter.desk.write_waiting() == 2
    assert counter.desk.write_waiting() == 0
    assert counter.journal_db.execute("SELECT reason, undurable FROM scan").fetchall() == [
        ("valid", 1),
        ("already_scanned", 1),
    ]
    assert counter.outbox.size().check_ins == 1


def test_what_waits_is_written_before_the_next_scan(counter):
    counter.load(ticket("T1"), ticket("T2"), ticket("T3"))
    with counter.disk_failing():
        counter.decide(scan("T1"))
        counter.decide(scan("T2"))
    assert counter.decide(scan("T3")).seq == 3
    rows = counter.outbox.freeze("S1", 50, moment())
    assert [row.barcode_id for row in rows] == ["T1", "T2", "T3"]


def test_a_gate_told_to_deny_while_the_disk_fails_admits_nobody_and_spends_nothing(tmp_path):
    counter = Counter(tmp_path, DeskRules(admit_undurable=False))
    counter.load(ticket())
    with counter.disk_failing():
        verdict = counter.decide(scan()).verdict
        assert (verdict.admitted, verdict.code, verdict.reason) == (False, None, Reason.FAULT)
    assert reason(counter) is Reason.VALID
    counter.close()


def test_what_the_server_has_recorded_is_admitted_although_the_disk_fails(tmp_path):
    counter = Counter(tmp_path, DeskRules(admit_undurable=False))
    counter.load(ticket())
    ask = counter.ask(scan())
    with counter.disk_failing():
        assert counter.desk.settle(ask, Reply(ADMITTED, ask.origin, answered=1.0)).verdict.admitted
    counter.close()


def test_a_lapsed_grant_is_granted_again_once_although_the_disk_fails(counter):
    counter.load(ticket())
    lapse(counter)
    with counter.disk_failing():
        assert reason(counter) is Reason.REGRANT
        assert reason(counter) is Reason.ALREADY_SCANNED
    assert reason(counter) is Reason.ALREADY_SCANNED


# ---- what goes up


def test_what_the_server_is_told_names_the_ticket_and_the_apis_text(counter):
    counter.load(ticket("T1", external_barcode_id="X1"))
    counter.decide(scan("X1"))
    counter.decide(scan("X1"))
    (first,) = counter.outbox.freeze("S1", 50, moment())
    counter.outbox.acknowledge([first], 0)
    (second,) = counter.outbox.freeze("S1", 50, moment())
    assert (first.barcode_id, first.status_code) == ("T1", 100)
    assert (second.barcode_id, second.status_code) == ("T1", 50)
    assert second.status_message == "DENY - Ticket already scanned: 2027-07-16 12:00:00 UTC"


def test_what_the_organiser_does_not_want_stays_here(tmp_path):
    counter = Counter(tmp_path, DeskRules(upload=UploadRules(denials=False, unknown=False)))
    counter.load(ticket())
    for barcode in ("T1", "T1", "nobody's"):
        counter.decide(scan(barcode))
    assert (counter.outbox.size().check_ins, counter.outbox.size().others) == (1, 0)
    counter.close()


def test_a_scan_keeps_its_id_and_lane_in_the_journal(counter):
    counter.load(ticket())
    what = scan(lane="North", at=replace(moment(2.5), wall=NOON))
    counter.decide(what)
    row = counter.journal_db.execute(
        "SELECT id, lane, boot, monotonic_ms, wall_ms, trust FROM scan"
    ).fetchone()
    wall_ms = int(NOON.timestamp() * 1000)
    assert row == (what.id.bytes, "North", "boot", 2500, wall_ms, "synchronised")
