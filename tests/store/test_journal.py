from datetime import timedelta
from pathlib import Path

import pytest

from gated.core.outbox import Kind, Row, UploadRules
from gated.core.scan import Direction, TimeTrust
from gated.store.desk import DeskRules
from tests.store.desks import NOON, Counter, moment, scan, ticket

UNIX_NOON = int(NOON.timestamp())
UNKNOWN = TimeTrust.UNKNOWN


@pytest.fixture
def counter(tmp_path: Path):
    counter = Counter(tmp_path)
    counter.load(*(ticket(f"T{number}") for number in range(1, 6)))
    yield counter
    counter.close()


def freeze(counter: Counter, limit: int = 50, **at: object) -> tuple[Row, ...]:
    return counter.journal.freeze("S1", limit, moment(1000.0, **at))


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.barcode_id for row in rows]


# ---- the outbox


def test_check_ins_go_first_then_the_rest_each_oldest_first(counter):
    for barcode in ("nobody's", "T1", "T1", "T2"):
        counter.decide(scan(barcode))
    first = freeze(counter)
    assert (names(first), {row.kind for row in first}) == (["T1", "T2"], {Kind.CHECK_IN})
    counter.journal.acknowledge(first, 0)
    second = freeze(counter)
    assert (names(second), [row.status_code for row in second]) == (["nobody's", "T1"], [40, 50])


def test_check_outs_to_be_replayed_go_last_and_alone(tmp_path):
    counter = Counter(tmp_path, DeskRules(upload=UploadRules(replay_checkouts=True)))
    counter.load(ticket())
    counter.decide(scan())
    counter.decide(scan(direction=Direction.EXIT))
    counter.decide(scan())
    sent = []
    while rows := freeze(counter):
        sent.append([(row.kind, row.status_code) for row in rows])
        counter.journal.acknowledge(rows, 0)
    assert sent == [[(Kind.CHECK_IN, 100)], [(Kind.OTHER, 50)], [(Kind.CHECK_OUT, 200)]]
    counter.close()


def test_a_batch_is_no_longer_than_asked(counter):
    for number in range(1, 6):
        counter.decide(scan(f"T{number}"))
    assert names(freeze(counter, 2)) == ["T1", "T2"]


def test_frozen_rows_never_change(counter):
    counter.decide(scan("T1", moment(7.9)))
    first = freeze(counter)
    assert first[0].checked_in_time == UNIX_NOON + 7
    assert counter.journal.freeze("S1", 50, moment(9999.0, wall=NOON + timedelta(days=1))) == first


def test_what_was_stamped_in_the_unknown_waits_and_is_corrected(counter):
    counter.decide(scan("T1", moment(10.0, UNKNOWN, wall=NOON - timedelta(days=99))))
    counter.decide(scan("T2", moment(20.0)))
    assert names(counter.journal.freeze("S1", 50, moment(30.0, UNKNOWN))) == ["T2"]
    first, second = counter.journal.freeze("S1", 50, moment(40.0))
    assert (first.barcode_id, first.checked_in_time) == ("T1", UNIX_NOON + 10)
    assert second.checked_in_time == UNIX_NOON + 20


def test_a_row_that_went_out_once_goes_out_again_although_the_time_is_unknown(counter):
    counter.decide(scan("T1", moment(10.0, UNKNOWN)))
    first = freeze(counter)
    assert counter.journal.freeze("S1", 50, moment(1.0, UNKNOWN, "next")) == first


def test_a_scan_of_an_earlier_boot_goes_out_at_its_lower_bound(counter):
    counter.decide(scan("T1", moment(0.0)))
    counter.upload(0.0)
    counter.decide(scan("T2", moment(10.0, UNKNOWN, "earlier", NOON - timedelta(days=99))))
    (row,) = counter.journal.freeze("S1", 50, moment(5.0, boot="next", wall=NOON + timedelta(days=1)))
    assert row.checked_in_time == UNIX_NOON
    trust = counter.journal_db.execute("SELECT trust FROM scan WHERE seq = ?", (row.seq,)).fetchone()
    assert trust == ("unknown",)


def test_another_services_scans_wait_for_that_service(counter):
    counter.decide(scan("T1"))
    counter.desk.service = "S2"
    counter.decide(scan("T2"))
    assert names(freeze(counter)) == ["T1"]
    assert names(counter.journal.freeze("S2", 50, moment())) == ["T2"]


def test_how_often_a_row_went_out_is_counted(counter):
    counter.decide(scan("T1"))
    for _ in range(3):
        freeze(counter)
    assert counter.journal_db.execute("SELECT sent FROM outbox").fetchone() == (3,)


def test_the_size_of_the_outbox_says_since_when_the_oldest_waits(counter):
    assert counter.journal.outbox_size().oldest_ms is None
    counter.decide(scan("T1", moment(5.0)))
    counter.decide(scan("nobody's", moment(9.0)))
    size = counter.journal.outbox_size()
    assert (size.check_ins, size.others, size.oldest_ms) == (1, 1, (UNIX_NOON + 5) * 1000)


def test_acknowledged_rows_are_gone_and_the_journal_keeps_the_scan(counter):
    counter.decide(scan("T1"))
    counter.journal.acknowledge(freeze(counter), 4000)
    assert freeze(counter) == ()
    assert counter.journal_db.execute("SELECT acknowledged_ms FROM scan").fetchall() == [(4000,)]


# ---- running time


def test_running_time_goes_on_after_the_last_scan_and_the_last_acknowledgement(tmp_path):
    first = Counter(tmp_path)
    first.load(ticket())
    first.decide(scan(at=moment(100.0)))
    assert first.journal.ran_until_ms() == 100_000
    first.upload(250.0)
    assert first.journal.ran_until_ms() == 250_000
    first.close()
    second = Counter(tmp_path, monotonic=3.0)
    assert second.running.at(3.0) == 250_000
    assert second.running.at(4.5) == 251_500
    second.close()


def test_a_late_answer_counts_for_the_running_time_too(counter):
    decided = counter.decide(scan("T1"))
    counter.journal.acknowledge_one(decided.seq, 9000)
    assert counter.journal.ran_until_ms() == 9000


# ---- the rest


def test_a_scan_is_one_transaction_and_so_one_sync(counter):
    counter.decide(scan("T1"))
    counter.journal.checkpoint(1000)
    statements: list[str] = []
    counter.journal_db.set_trace_callback(statements.append)
    counter.decide(scan("T2"))
    counter.journal_db.set_trace_callback(None)
    assert [text for text in statements if not text.startswith(("SELECT", "INSERT"))] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


def test_several_scans_are_written_all_or_none(counter):
    with counter.disk_failing():
        counter.decide(scan("T1"))
        counter.decide(scan("T2"))
        assert counter.desk.write_waiting() == 2
    counter.journal_db.execute(
        "CREATE TRIGGER fuse BEFORE INSERT ON scan WHEN (SELECT count(*) FROM scan) = 1"
        " BEGIN SELECT raise(ABORT, 'blown'); END"
    )
    assert counter.desk.write_waiting() == 2
    assert counter.journal_db.execute("SELECT count(*) FROM scan").fetchone() == (0,)


def test_commands_and_alarms_are_kept_with_their_moment(counter):
    counter.journal.occurred("command", "North", "release", "wheelchair", moment(1.5))
    row = counter.journal_db.execute(
        "SELECT kind, lane, what, why, boot, monotonic_ms, trust FROM occurrence"
    )
    assert row.fetchone() == ("command", "North", "release", "wheelchair", "boot", 1500, "synchronised")


def test_the_secret_is_made_once(counter):
    assert counter.journal.secret() == counter.journal.secret()
    assert len(counter.journal.secret()) == 32


def test_a_checkpoint_empties_the_wal_of_all_but_a_note_and_does_nothing_when_nothing_happened(
    counter, tmp_path
):
    wal = tmp_path / "journal.db-wal"
    counter.decide(scan("T1"))
    counter.journal.checkpoint(5000)
    after = wal.stat()
    assert 0 < after.st_size < 3 * 4096 + 500
    assert counter.journal.ran_until_ms() == 5000
    counter.journal.checkpoint(6000)
    assert wal.stat().st_mtime_ns == after.st_mtime_ns
    assert counter.journal.ran_until_ms() == 5000
