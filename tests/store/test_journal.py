from pathlib import Path

import pytest

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


def test_a_scan_overwrites_the_wal_and_does_not_lengthen_it(counter, tmp_path):
    counter.journal.checkpoint(1000)
    wal, before = tmp_path / "journal.db-wal", (tmp_path / "journal.db").stat().st_size
    room = wal.stat().st_size
    for number in range(1, 6):
        counter.decide(scan(f"T{number}"))
    assert wal.stat().st_size == room > 150 * 1024
    counter.journal.checkpoint(2000)
    assert (wal.stat().st_size, counter.journal.note("room")) == (room, None)
    assert (tmp_path / "journal.db").stat().st_size <= before + 4 * 4096


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
