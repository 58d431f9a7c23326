"""The outbox on real files: what goes when, and what becomes of a row that was sent."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gated.core.outbox import Kind, Lost, Row, Shown, UploadRules, Window
from gated.core.scan import Direction, TimeTrust
from gated.core.verdict import Origin
from gated.store.desk import Reply
from gated.store.memory import DeskRules
from gated.store.outbox import UNCERTAIN
from tests.store.desks import NOON, Counter, moment, scan, ticket

UNIX_NOON = int(NOON.timestamp())
UNKNOWN = TimeTrust.UNKNOWN
EXIT = Direction.EXIT
TICKETS = (*(ticket(f"T{number}") for number in range(1, 8)), ticket("MANY", remaining=5, max_checkins=5))


@pytest.fixture
def counter(tmp_path: Path):
    counter = Counter(tmp_path)
    counter.load(*TICKETS)
    yield counter
    counter.close()


def freeze(
    counter: Counter, limit: int = 50, service: str = "S1", seconds: float = 1000.0
) -> tuple[Row, ...]:
    return counter.outbox.freeze(service, limit, moment(seconds))


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.barcode_id for row in rows]


def admit_all(counter: Counter, *barcodes: str) -> None:
    for barcode in barcodes:
        assert counter.decide(scan(barcode)).verdict.admitted


# ---- what goes when


def test_check_ins_go_first_then_the_rest_each_oldest_first(counter):
    for barcode in ("nobody's", "T1", "T1", "T2"):
        counter.decide(scan(barcode))
    first = freeze(counter)
    assert (names(first), {row.kind for row in first}) == (["T1", "T2"], {Kind.CHECK_IN})
    counter.outbox.acknowledge(first, 0)
    second = freeze(counter)
    assert (names(second), [row.status_code for row in second]) == (["nobody's", "T1"], [40, 50])


def replaying(folder: Path) -> Counter:
    counter = Counter(folder, DeskRules(upload=UploadRules(replay_checkouts=True)))
    counter.load(*TICKETS)
    return counter


def test_check_outs_to_be_replayed_go_last_and_alone(tmp_path):
    counter = replaying(tmp_path)
    counter.decide(scan())
    counter.decide(scan(direction=EXIT))
    counter.decide(scan())
    sent = []
    while rows := freeze(counter):
        sent.append([(row.kind, row.status_code) for row in rows])
        counter.outbox.acknowledge(rows, 0)
    assert sent == [[(Kind.CHECK_IN, 100)], [(Kind.OTHER, 50)], [(Kind.CHECK_OUT, 200)]]
    counter.close()


def test_the_newest_row_goes_along_so_that_bad_rows_are_never_among_themselves(counter):
    admit_all(counter, "T1", "T2", "T3", "T4", "T5", "T6")
    assert names(freeze(counter, 4)) == ["T1", "T2", "T3", "T6"]


def test_the_newest_row_goes_along_once_where_other_kinds_fill_the_batch(counter):
    admit_all(counter, "T1", "T2", "T3")
    counter.decide(scan("T1"))
    assert names(freeze(counter, 4)) == ["T1", "T2", "T3"]


def test_check_outs_are_replayed_in_their_order(tmp_path):
    counter = replaying(tmp_path)
    admit_all(counter, "T1", "T2", "T3", "T4", "T5")
    counter.upload(0.0)
    for barcode in ("T1", "T2", "T3", "T4", "T5"):
        counter.decide(scan(barcode, direction=EXIT))
    assert names(freeze(counter, 4)) == ["T1", "T2", "T3", "T4"]
    counter.close()


def test_even_where_one_row_is_all_a_server_takes_two_others_can_speak_for_the_service(counter):
    admit_all(counter, "T1", "T2", "T3", "T4", "T5")
    assert names(freeze(counter, 1)) == ["T1", "T2", "T5"]


def test_another_services_scans_go_after_the_current_ones_under_their_own_service(counter):
    admit_all(counter, "T1", "T2")
    counter.memory.service = "S2"
    admit_all(counter, "T3")
    counter.decide(scan("T3"))
    sent = []
    while rows := freeze(counter, service="S2"):
        sent.append((rows[0].service, rows[0].kind, names(rows)))
        counter.outbox.acknowledge(rows, 0)
    assert sent == [
        ("S2", Kind.CHECK_IN, ["T3"]),
        ("S2", Kind.OTHER, ["T3"]),
        ("S1", Kind.CHECK_IN, ["T1", "T2"]),
    ]


def test_a_batch_of_another_service_is_of_that_service_alone(counter):
    for service, barcode in (("S1", "T1"), ("S2", "T2"), ("S1", "T3"), ("S2", "T4"), ("S2", "T5")):
        counter.memory.service = service
        admit_all(counter, barcode)
    rows = freeze(counter, 4, service="S3")
    assert ({row.service for row in rows}, names(rows)) == ({"S1"}, ["T1", "T3"])


def test_a_scan_from_before_any_service_was_known_goes_under_the_current_one(counter):
    counter.memory.service = ""
    admit_all(counter, "T1")
    counter.memory.service = "S1"
    admit_all(counter, "T2")
    rows = freeze(counter)
    assert [(row.barcode_id, row.service) for row in rows] == [("T1", "S1"), ("T2", "S1")]


# ---- frozen, with a time


def test_frozen_rows_never_change(counter):
    counter.decide(scan("T1", moment(7.9)))
    first = freeze(counter)
    assert first[0].checked_in_time == UNIX_NOON + 7
    counter.outbox.keep(first)
    assert counter.outbox.freeze("S1", 50, moment(9999.0, wall=NOON + timedelta(days=1))) == first


def test_what_was_stamped_in_the_unknown_waits_and_is_corrected(counter):
    counter.decide(scan("T1", moment(10.0, UNKNOWN, wall=NOON - timedelta(days=99))))
    counter.decide(scan("T2", moment(20.0)))
    first = counter.outbox.freeze("S1", 50, moment(30.0, UNKNOWN))
    assert names(first) == ["T2"]
    counter.outbox.keep(first)
    first, second = counter.outbox.freeze("S1", 50, moment(40.0))
    assert (first.barcode_id, first.checked_in_time) == ("T1", UNIX_NOON + 10)
    assert second.checked_in_time == UNIX_NOON + 20


def test_a_row_that_went_out_once_goes_out_again_although_the_time_is_unknown(counter):
    counter.decide(scan("T1", moment(10.0, UNKNOWN)))
    first = freeze(counter)
    counter.outbox.keep(first)
    assert counter.outbox.freeze("S1", 50, moment(1.0, UNKNOWN, "next")) == first


def test_a_scan_of_an_earlier_boot_goes_out_at_its_lower_bound(counter):
    counter.decide(scan("T1", moment(0.0)))
    counter.upload(0.0)
    counter.decide(scan("T2", moment(10.0, UNKNOWN, "earlier", NOON - timedelta(days=99))))
    (row,) = counter.outbox.freeze("S1", 50, moment(5.0, boot="next", wall=NOON + timedelta(days=1)))
    assert row.checked_in_time == UNIX_NOON + 10
    trust = counter.journal_db.execute("SELECT trust FROM scan WHERE seq = ?", (row.seq,)).fetchone()
    assert trust == ("unknown",)


# ---- what becomes of a row

Act = Callable[[Counter, Row], object]
CHECK_IN, MULTI, CHECK_OUT, DENIAL = "check-in", "multi-entry check-in", "check-out", "denial"


def one(counter: Counter, what: str) -> Row:
    """A row of that sort, on its way."""
    if what == MULTI:
        counter.decide(scan("MANY"))
    else:
        counter.decide(scan("T1"))
        if what != CHECK_IN:
            counter.upload(0.0)
            counter.decide(scan("T1", direction=EXIT if what == CHECK_OUT else Direction.ENTRY))
    (row,) = freeze(counter)
    return row


def fate(counter: Counter, seq: int) -> str:
    """Where a row is now: ``gone`` has been acknowledged, ``marked`` is a scan that may be sent twice."""
    marked, acknowledged, *row = counter.journal_db.execute(
        "SELECT s.marked, s.acknowledged_ms, o.seq, o.sending, o.lost_ms, o.parked"
        " FROM scan s LEFT JOIN outbox o USING (seq) WHERE s.seq = ?",
        (seq,),
    ).fetchone()
    there, sending, lost_ms, parked = row
    assert (there is None) == (acknowledged is not None)
    assert [bool(sending), lost_ms is not None, parked is not None].count(True) <= 1
    if there is None:
        return "gone"
    where = "sending" if sending else "lost" if lost_ms is not None else parked or "waits"
    return f"{where}, marked" if marked else where


def keep(counter: Counter, row: Row) -> None:
    counter.outbox.keep([row])


def acknowledge(counter: Counter, row: Row) -> None:
    counter.outbox.acknowledge([row], 2000)


def park(counter: Counter, row: Row) -> None:
    counter.outbox.park([row], "refused")


def lose(counter: Counter, row: Row) -> None:
    counter.outbox.lose([row], 2000)


def the_power_goes(counter: Counter, _: Row) -> None:
    counter.outbox.recover(2000)


def retry(counter: Counter, _: Row) -> None:
    counter.outbox.retry()


def late_yes(counter: Counter, row: Row) -> None:
    counter.outbox.acknowledge_one(row.seq, 3000)


def late_no(counter: Counter, row: Row) -> None:
    counter.outbox.found_not_recorded(row.seq)


def shows(last_in: int | None, last_out: int | None = None, *, asked: float = 3.0) -> Act:
    """A download, asked for after that many seconds, shows these times of the row's ticket."""

    def download(counter: Counter, row: Row) -> None:
        entries = 5 if row.barcode_id == "MANY" else 1
        shown = Shown(last_in, last_out, entries)
        counter.outbox.settle_lost("S1", counter.running.at(asked), lambda _: shown)

    return download


@pytest.mark.parametrize(
    ("what", "acts", "where"),
    [
        pytest.param(CHECK_IN, [], "sending", id="frozen"),
        pytest.param(CHECK_IN, [keep], "waits", id="not arrived"),
        pytest.param(CHECK_IN, [acknowledge], "gone", id="acknowledged"),
        pytest.param(CHECK_IN, [park], "refused", id="parked"),
        pytest.param(CHECK_IN, [park, retry], "waits", id="a refused row goes again unmarked"),
        pytest.param(CHECK_IN, [lose], "lost", id="lost check-in"),
        pytest.param(MULTI, [lose], "lost", id="lost multi-entry check-in"),
        pytest.param(CHECK_OUT, [lose], "lost", id="lost check-out"),
        pytest.param(DENIAL, [lose], "waits, marked", id="lost denial goes again at once"),
        pytest.param(CHECK_IN, [the_power_goes], "lost", id="power cut in mid-sending"),
        pytest.param(DENIAL, [the_power_goes], "lost", id="power cut, denial"),
        pytest.param(CHECK_IN, [keep, the_power_goes], "waits", id="power cut, not on its way"),
        pytest.param(CHECK_IN, [lose, late_yes], "gone", id="a late yes"),
        pytest.param(CHECK_IN, [lose, late_no], "waits", id="a late no"),
        pytest.param(CHECK_IN, [lose, retry], "lost", id="a retry sends nothing that may be recorded"),
        pytest.param(CHECK_IN, [lose, shows(UNIX_NOON, asked=2.0)], "lost", id="asked for before the loss"),
        pytest.param(CHECK_IN, [lose, shows(UNIX_NOON)], "gone", id="shown with its time"),
        pytest.param(MULTI, [lose, shows(UNIX_NOON)], "gone", id="shown with its time, multi-entry"),
        pytest.param(CHECK_IN, [lose, shows(None)], "waits, marked", id="not shown"),
        pytest.param(CHECK_IN, [lose, shows(UNIX_NOON + 1)], "waits, marked", id="shown with another time"),
        pytest.param(MULTI, [lose, shows(None)], UNCERTAIN, id="multi-entry, not shown"),
        pytest.param(MULTI, [lose, shows(None), retry], "waits, marked", id="uncertain, then retried"),
        pytest.param(MULTI, [lose, shows(None), late_yes], "gone", id="uncertain, then a late yes"),
        pytest.param(CHECK_OUT, [lose, shows(None, UNIX_NOON)], "gone", id="check-out shown"),
        pytest.param(CHECK_OUT, [lose, shows(UNIX_NOON)], "waits, marked", id="check-out not shown"),
        pytest.param(
            DENIAL, [the_power_goes, shows(UNIX_NOON)], "waits, marked", id="denial after power cut"
        ),
        pytest.param(CHECK_IN, [keep, shows(UNIX_NOON)], "waits", id="what was not lost is not settled"),
        pytest.param(CHECK_IN, [park, shows(UNIX_NOON)], "refused", id="what is parked is not settled"),
    ],
)
def test_what_becomes_of_a_row_on_its_way(counter, what: str, acts: list[Act], where: str):
    row = one(counter, what)
    for act in acts:
        act(counter, row)
    assert fate(counter, row.seq) == where
    if where.startswith("waits"):
        assert freeze(counter) == (row,)
    else:
        assert where == "sending" or freeze(counter) == ()


@pytest.mark.parametrize(("remaining", "then"), [(1, "waits, marked"), (5, UNCERTAIN)])
@pytest.mark.parametrize("arrived", [True, False])
def test_after_a_power_cut_in_mid_sending_nothing_is_sent_blindly(tmp_path, arrived, remaining, then):
    before = Counter(tmp_path)
    before.load(ticket(remaining=remaining))
    before.decide(scan(at=moment(7.0)))
    (row,) = freeze(before)
    before.close()  # nothing is written at the end of a process
    after = Counter(tmp_path)
    assert freeze(after) == ()
    shown = ticket(
        remaining=remaining - arrived,
        checked_in=int(arrived),
        last_checked_in=NOON + timedelta(seconds=7) if arrived else None,
    )
    after.load(shown, asked=30.0)
    counts = after.outbox.settle_lost("S1", after.running.at(30.0), after.mirror.shown)
    assert fate(after, row.seq) == ("gone" if arrived else then)
    assert sum(counts.values()) == 1
    assert after.decide(scan(at=moment(50.0))).verdict.admitted == (remaining > 1)
    after.close()


def test_a_loss_is_not_in_the_future_of_the_next_start(tmp_path):
    before = Counter(tmp_path)
    before.load(ticket())
    before.decide(scan())
    lose(before, *freeze(before))
    before.close()
    after = Counter(tmp_path)
    assert after.running.at(0.0) == 2000
    after.close()


def test_how_lost_rows_were_decided_on_is_counted(counter):
    admit_all(counter, "T1", "T2", "MANY")
    counter.outbox.lose(freeze(counter), 2000)
    shown = {counter.mirror.digest("T1"): Shown(UNIX_NOON, None, 1), counter.mirror.digest("T2"): None}
    other = Shown(None, None, 5)
    counts = counter.outbox.settle_lost("S1", 3000, lambda ticket: shown.get(ticket, other))
    assert counts == {Lost.RECORDED: 1, Lost.AGAIN: 1, Lost.UNCERTAIN: 1}
    assert counter.outbox.size().parked == 1


def test_the_mirror_of_one_service_proves_nothing_about_the_scans_of_another(counter):
    row = one(counter, MULTI)
    lose(counter, row)
    counter.outbox.settle_lost("S2", 3000, lambda _: None)
    assert fate(counter, row.seq) == UNCERTAIN


# ---- a direct call whose answer was lost

CALL = Window(UNIX_NOON - 5, UNIX_NOON + 11)


def lost_call(
    counter: Counter, barcode: str, seconds: float = 0.0, direction: Direction = Direction.ENTRY
) -> int:
    """The number of a scan that was admitted here without the server's answer."""
    ask = counter.ask(scan(barcode, moment(seconds), direction=direction))
    shifted = Window(CALL.start + int(seconds), CALL.end + int(seconds))
    decided = counter.desk.settle(ask, Reply(ask.fallback, Origin.FALLBACK, call=shifted))
    assert decided.verdict.admitted
    assert decided.seq is not None
    return decided.seq


def settle(counter: Counter, asked: float, **shown: object) -> None:
    counter.load(ticket("MANY", **shown), asked=asked)
    counter.outbox.settle_lost("S1", counter.running.at(asked), counter.mirror.shown)


@pytest.mark.parametrize(
    ("last_in", "where"), [(-5, "gone"), (11, "gone"), (-6, UNCERTAIN), (12, UNCERTAIN), (None, UNCERTAIN)]
)
def test_a_lost_direct_check_in_is_found_by_a_time_in_its_calls_window(counter, last_in, where):
    seq = lost_call(counter, "MANY")
    assert (fate(counter, seq), freeze(counter)) == ("lost", ())
    last = None if last_in is None else NOON + timedelta(seconds=last_in)
    settle(counter, 30.0, remaining=4, checked_in=1, last_checked_in=last)
    assert fate(counter, seq) == where


def test_a_lost_direct_check_out_is_found_by_a_time_in_its_calls_window(counter):
    admit_all(counter, "MANY")
    counter.upload(0.0)
    seq = lost_call(counter, "MANY", direction=EXIT)
    settle(counter, 30.0, remaining=4, checked_in=1, last_checked_out=NOON + timedelta(seconds=2))
    assert fate(counter, seq) == "gone"


@pytest.mark.parametrize(("asked", "where"), [(16.0, "lost"), (17.0, UNCERTAIN)])
def test_a_download_asked_for_while_the_call_may_still_be_carried_out_proves_nothing(counter, asked, where):
    seq = lost_call(counter, "MANY")
    settle(counter, asked, remaining=5)
    assert fate(counter, seq) == where


def test_a_time_that_another_scan_of_the_ticket_here_explains_proves_nothing(counter):
    seq = lost_call(counter, "MANY")  # it never arrived
    second = counter.decide(scan("MANY", moment(5.0)))
    counter.outbox.acknowledge(freeze(counter), 6000)
    assert fate(counter, second.seq) == "gone"
    settle(counter, 30.0, remaining=4, checked_in=1, last_checked_in=NOON + timedelta(seconds=5))
    assert fate(counter, seq) == UNCERTAIN


def test_two_scans_of_one_second_do_not_prove_each_other(counter):
    counter.decide(scan("MANY", lane="A"))
    lost = freeze(counter)
    counter.outbox.lose(lost, 2000)
    counter.decide(scan("MANY", lane="B"))
    counter.outbox.acknowledge(freeze(counter), 2500)
    settle(counter, 30.0, remaining=4, checked_in=1, last_checked_in=NOON)
    assert fate(counter, lost[0].seq) == UNCERTAIN


def test_a_denial_whose_question_was_lost_waits_for_nothing(counter):
    counter.load(ticket("T1", remaining=0), asked=1.0)
    ask = counter.ask(scan("T1"))
    counter.desk.settle(ask, Reply(ask.fallback, Origin.FALLBACK, call=CALL))
    (row,) = freeze(counter)
    assert (row.status_code, fate(counter, row.seq)) == (50, "sending")


# ---- for people


def test_the_size_of_the_outbox_says_since_when_the_oldest_waits(counter):
    assert counter.outbox.size().oldest_ms is None
    counter.decide(scan("T1", moment(5.0)))
    counter.decide(scan("nobody's", moment(9.0)))
    size = counter.outbox.size()
    assert (size.check_ins, size.others, size.oldest_ms) == (1, 1, (UNIX_NOON + 5) * 1000)


def test_the_outbox_is_counted_in_pieces_that_a_scan_need_not_wait_for(counter):
    for barcode in ("T1", "T2", "T3", "nobody's", "nobody's"):
        counter.decide(scan(barcode))
    counter.outbox.park(freeze(counter, 3)[:1], "refused")
    counts = []
    for kind in Kind:
        after = 0
        while after is not None:
            counts.append(counter.outbox.count(kind, after, 2))
            after = counts[-1].last
    assert [count.rows for count in counts] == [2, 1, 0, 2, 0, 0]
    size = counter.outbox.size_of(counts)
    assert (size.check_ins, size.others, size.parked) == (3, 2, 1)
    assert size == counter.outbox.size()


def test_people_see_every_row_in_the_order_of_the_scans_page_by_page(counter):
    for barcode in ("nobody's", "T1", "T1", "T2", "T3"):
        counter.decide(scan(barcode))
    counter.outbox.park(freeze(counter, 3)[:1], "refused")
    seen, after = [], 0
    while page := counter.outbox.rows(after, 2):
        assert len(page) <= 2
        seen += [(row.barcode_id, row.code, row.parked) for row in page]
        after = page[-1].seq
    assert seen == [
        ("nobody's", 40, ""),
        ("T1", 100, "refused"),
        ("T1", 50, ""),
        ("T2", 100, ""),
        ("T3", 100, ""),
    ]


# ---- after the acknowledgement


def test_acknowledged_rows_are_gone_and_the_journal_keeps_the_scan(counter):
    counter.decide(scan("T1"))
    counter.outbox.acknowledge(freeze(counter), 4000)
    assert freeze(counter) == ()
    assert counter.journal_db.execute("SELECT acknowledged_ms FROM scan").fetchall() == [(4000,)]


def test_no_barcode_is_left_in_any_file_once_the_server_has_its_scan(counter, tmp_path):
    barcodes = [f"SECRET-{number:03}" for number in range(120)]
    counter.load(
        *(ticket(barcode, remaining=1 + 4 * (number % 2)) for number, barcode in enumerate(barcodes))
    )
    admit_all(counter, *barcodes)
    for barcode in barcodes[::3]:
        counter.decide(scan(barcode))

    def written() -> list[str]:
        counter.journal.checkpoint(1000)
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        return [barcode for barcode in barcodes if barcode.encode() in on_disk]

    assert written() == barcodes
    counter.outbox.acknowledge(freeze(counter, 20), 0)
    counter.outbox.park(freeze(counter, 20), "refused")
    counter.outbox.lose(freeze(counter, 20), 2000)
    counter.outbox.keep(freeze(counter, 20))
    counter.outbox.settle_lost("S1", 3000, counter.mirror.shown)
    waiting = {row.barcode_id for row in counter.outbox.rows(0, 999)}
    assert counter.outbox.size().parked == 30  # twenty were refused, ten are uncertain
    assert written() == [barcode for barcode in barcodes if barcode in waiting]
    assert len(waiting) < len(barcodes)
    assert counter.outbox.retry() == 30
    counter.upload(5.0)
    assert written() == []


# ---- an outbox that is full

FULL = 100_000


@pytest.mark.parametrize(
    ("state", "found"),
    [("", 50), ("lost_ms = 5", 0)],
    ids=["all of them can be sent", "all of them are lost"],
)
def test_a_batch_is_found_among_a_hundred_thousand_rows_in_a_few_steps(counter, state, found):
    fill(counter)
    if state:
        counter.journal_db.execute(f"UPDATE outbox SET {state} WHERE seq > 1000")
        counter.outbox.acknowledge(freeze(counter, 1000), 0)
    steps = steps_of(counter, lambda: counter.outbox.recover(9))
    assert steps < 1000
    rows = freeze(counter)
    counter.outbox.keep(rows)
    assert len(rows) == found
    if not state:
        assert steps_of(counter, lambda: freeze(counter)) < 20_000
        assert steps_of(counter, lambda: counter.outbox.rows(FULL // 2, 100)) < 20_000
        assert steps_of(counter, lambda: settle(counter, 3.0)) < 20_000


def fill(counter: Counter) -> None:
    """As many admissions as a gate that was offline for days can hold."""
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {FULL})"
    counter.journal_db.execute(
        "INSERT INTO scan (id, service, lane, direction, ticket, admitted, code, reason, origin, moves,"
        f" count_before, left_before, boot, monotonic_ms, wall_ms, trust, running_ms) {numbers}"
        " SELECT x'', 'S1', 'A', 'entry', CAST(n AS BLOB), 1, 100, 'valid', 'local', 1,"
        " 0, 1, 'boot', 0, 1800000000000, 'synchronised', 0 FROM n"
    )
    counter.journal_db.execute(
        "INSERT INTO outbox (kind, seq, barcode_id, status_message)"
        " SELECT 0, seq, 'BARCODE-' || seq, 'ADMIT - Ticket is valid' FROM scan"
    )


def steps_of(counter: Counter, act: Callable[[], object]) -> int:
    """How many steps SQLite's machine takes for it, to the hundred: the same on every computer."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    counter.journal_db.set_progress_handler(count, 100)
    act()
    counter.journal_db.set_progress_handler(None, 0)
    return steps
