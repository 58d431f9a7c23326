import sqlite3
from itertools import count, islice
from pathlib import Path

import pytest

from gated.store.database import open_beside
from gated.store.pages import read_wal
from tests.store.desks import Counter, moment, scan, ticket


@pytest.fixture
def counter(tmp_path: Path):
    counter = Counter(tmp_path)
    counter.load(*(ticket(f"T{number}") for number in range(1, 6)))
    yield counter
    counter.close()


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
    counter.outbox.acknowledge_one(decided.seq, 9000)
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


def test_scans_overwrite_the_wal_and_lengthen_it_once_at_most(counter, tmp_path):
    wal, numbers = tmp_path / "journal.db-wal", count(1)

    def length_after(scans: int) -> int:
        for number in islice(numbers, scans):
            counter.decide(scan(f"N{number}"))
        return wal.stat().st_size

    counter.journal.checkpoint(1000)
    before, room = (tmp_path / "journal.db").stat().st_size, length_after(0)
    assert length_after(20) == room >= 1024 * 1024
    more = length_after(180)
    assert more > room
    for running_ms in (2000, 3000):
        counter.journal.checkpoint(running_ms)
        assert more <= length_after(0) == length_after(100) < more + 8 * 4096
    assert counter.journal.note("room") is None
    assert (tmp_path / "journal.db").stat().st_size <= before + 100 * 4096


def test_a_wal_that_far_more_than_scans_have_lengthened_is_cut(counter, tmp_path):
    wal = tmp_path / "journal.db-wal"
    counter.journal.checkpoint(1000)
    room = wal.stat().st_size
    counter.journal.set_note("long", b"x" * 5 * 1024 * 1024)
    assert wal.stat().st_size > 5 * 1024 * 1024
    counter.journal.checkpoint(2000)
    assert wal.stat().st_size == room


def test_no_barcode_is_left_of_scans_that_could_not_be_written(counter, tmp_path):
    counter.journal.checkpoint(1000)
    with counter.disk_failing():
        for number in range(60):
            counter.decide(scan(f"SECRET-{number}"))
    counter.journal_db.execute(
        "CREATE TRIGGER fuse BEFORE INSERT ON outbox WHEN NEW.barcode_id = 'SECRET-59'"
        " BEGIN SELECT raise(ABORT, 'blown'); END"
    )
    counter.journal_db.execute("PRAGMA cache_size = 1")  # so that much has been written by then
    assert counter.desk.write_waiting() == 60
    assert b"SECRET-30" in (tmp_path / "journal.db-wal").read_bytes()
    counter.journal.checkpoint(2000)
    assert b"SECRET" not in (tmp_path / "journal.db-wal").read_bytes()


def test_no_barcode_is_left_of_an_upload_whose_end_could_not_be_written(counter, tmp_path):
    for number in range(200):
        counter.decide(scan(f"SECRET-{number}"))
    counter.journal.checkpoint(1000)
    counter.journal.checkpoint(1001)
    rows = [row for _ in range(4) for row in counter.outbox.freeze("S1", 50, moment())]
    counter.journal.checkpoint(2000)
    counter.journal_db.execute(
        "CREATE TRIGGER fuse BEFORE UPDATE ON scan WHEN NEW.seq = 200 BEGIN SELECT raise(ABORT, 'blown'); END"
    )
    counter.journal_db.execute("PRAGMA cache_size = 1")
    with pytest.raises(sqlite3.Error):
        counter.outbox.acknowledge(rows, 3000)
    assert counter.journal_db.rolled_back
    counter.journal.checkpoint(3000)
    assert not counter.journal_db.rolled_back
    assert b"SECRET" not in (tmp_path / "journal.db-wal").read_bytes()


def test_what_was_read_meanwhile_keeps_its_wal_until_the_next_checkpoint(counter, tmp_path):
    wal = tmp_path / "journal.db-wal"
    counter.journal.checkpoint(1000)
    counter.journal_db.execute("PRAGMA busy_timeout = 1")
    reader = open_beside(tmp_path / "journal.db")
    counter.decide(scan("SECRET-1"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM scan").fetchone()
    counter.decide(scan("T2"))
    counter.journal.checkpoint(2000)
    assert b"SECRET-1" in wal.read_bytes()
    assert reader.execute("SELECT count(*) FROM scan").fetchone() == (1,)
    reader.close()
    counter.journal.refuse(1, None)
    counter.journal.checkpoint(3000)
    assert b"SECRET-1" not in wal.read_bytes()


def test_a_disk_without_room_for_more_than_a_scan_takes_scans(counter):
    [pages] = counter.journal_db.execute("PRAGMA page_count").fetchone()
    counter.journal_db.execute(f"PRAGMA max_page_count = {pages + 8}")
    counter.journal.checkpoint(1000)
    assert counter.journal.note("running_ms") == 1000
    assert counter.decide(scan("T1")).seq is not None


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
    assert len(read_wal(wal).pages) <= 3
    assert counter.journal.ran_until_ms() == 5000
    counter.journal.checkpoint(6000)
    assert wal.stat().st_mtime_ns == after.st_mtime_ns
    assert counter.journal.ran_until_ms() == 5000
