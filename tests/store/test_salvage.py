"""A journal that is damaged in every way that a card can: what is carried over, told, and kept."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from gated.core.verdict import Reason
from gated.errors import StoreError
from gated.store import database, salvage
from gated.store.database import Connection, open_database
from gated.store.journal import Journal
from gated.store.outbox import Outbox
from gated.store.pages import PAGE_BYTES
from gated.store.salvage import Salvaged, forget_kept, kept_in, open_journal, read_journal
from tests.store.desks import NOON, Counter, moment, scan, ticket

SCANS = 300
NOISE = Random(7).randbytes(PAGE_BYTES)
EVERYTHING = {"scan": SCANS, "outbox": SCANS - 100, "occurrence": 40, "meta": 6}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files after 300 scans, of which the server has the first 100."""
    folder = tmp_path_factory.mktemp("sound")
    counter = Counter(folder)
    counter.load(*(ticket(f"T{number:03}") for number in range(SCANS)))
    for number in range(SCANS):
        counter.decide(scan(f"T{number:03}", moment(number)))
        if number == 99:
            counter.upload(100)
    for number in range(40):
        counter.journal.occurred("command", "A", f"mode {'locked' if number % 2 else 'free'}", "", moment())
    counter.journal.occurred("emergency", None, "latched", "", moment())
    counter.journal_db.execute("DELETE FROM occurrence WHERE seq = 1")  # 40 are left
    for key, value in {"service": "S1", "mode:A": "locked", "emergency": 1, "later": 1}.items():
        counter.journal.set_note(key, value)
    counter.journal.checkpoint(300_000)
    counter.close()
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    for path in sound.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def counts(connection: Connection) -> dict[str, int]:
    return {
        name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        for name in ("scan", "outbox", "occurrence", "meta")
    }


def opened(folder: Path, **known: bytes | bool) -> tuple[Connection, Salvaged | None]:
    return open_journal(folder / "journal.db", **known)


def overwrite(path: Path, page: int, content: bytes = NOISE) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(content)


def pages_of(folder: Path, name: str) -> list[int]:
    """The numbers of a table's or an index's pages: its root first, the last leaf last."""
    connection = sqlite3.connect(folder / "journal.db")
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
    connection.close()
    raw = (folder / "journal.db").read_bytes()
    page = raw[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    if page[0] in (10, 13):
        return [root]
    count = int.from_bytes(page[3:5], "big")
    cells = [int.from_bytes(page[12 + 2 * at : 14 + 2 * at], "big") for at in range(count)]
    children = [int.from_bytes(page[cell : cell + 4], "big") for cell in cells]
    return [root, *children, int.from_bytes(page[8:12], "big")]


def secret_of(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "mirror.db")
    secret = connection.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()[0]
    connection.close()
    return bytes(secret)


def test_a_sound_journal_is_opened_as_it_is(folder):
    connection, salvaged = opened(folder)
    assert (salvaged, counts(connection)) == (None, EVERYTHING)
    connection.close()
    assert kept_in(folder) == []


def test_a_new_gate_has_nothing_to_salvage(tmp_path):
    connection, salvaged = opened(tmp_path)
    assert salvaged is None
    connection.close()


NOTHING_LOST: dict[str, Callable[[Path], None]] = {
    "noise in the header": lambda folder: overwrite(folder / "journal.db", 1),
    "zeroes in the header": lambda folder: overwrite(folder / "journal.db", 1, bytes(PAGE_BYTES)),
    "noise in the root of the scans": lambda folder: overwrite(
        folder / "journal.db", pages_of(folder, "scan")[0]
    ),
    "noise in an index": lambda folder: overwrite(folder / "journal.db", pages_of(folder, "movement")[1]),
    "noise in the root of an index": lambda folder: overwrite(
        folder / "journal.db", pages_of(folder, "movement")[0]
    ),
    "noise in a WAL without which nothing is missing": lambda folder: (
        (folder / "journal.db-wal").write_bytes(NOISE * 3) and None
    ),
}


@pytest.mark.parametrize("damage", NOTHING_LOST)
def test_damage_off_the_rows_costs_none_of_them(folder, damage):
    NOTHING_LOST[damage](folder)
    before = (folder / "journal.db").read_bytes()
    connection, salvaged = opened(folder)
    assert counts(connection) == EVERYTHING
    assert salvaged is not None
    assert (salvaged.scans, salvaged.waiting, salvaged.missing) == (SCANS, SCANS - 100, 0)
    assert not salvaged.secret_lost
    assert salvaged.kept is not None
    assert salvaged.kept.read_bytes() == before
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_freelist_of_noise_costs_nothing(folder):
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("DELETE FROM occurrence")
    connection.executemany("INSERT INTO meta VALUES (?, zeroblob(3000))", [(f"k{n}",) for n in range(20)])
    connection.execute("DELETE FROM meta WHERE key LIKE 'k%'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    trunk = int.from_bytes((folder / "journal.db").read_bytes()[32:36], "big")
    assert trunk
    overwrite(folder / "journal.db", trunk)
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert counts(connection) == {**EVERYTHING, "occurrence": 0}
    connection.close()


def test_a_page_of_noise_among_the_scans_costs_its_scans_and_those_that_wait_are_rebuilt(folder):
    leaf = pages_of(folder, "scan")[-3]
    overwrite(folder / "journal.db", leaf)
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert 10 < salvaged.rebuilt < 50
    assert (salvaged.scans, salvaged.waiting, salvaged.missing) == (SCANS, SCANS - 100, 0)
    rebuilt = connection.execute(
        "SELECT seq, direction, code, reason, moves, wall_ms, trust, lane FROM scan WHERE boot = ''"
        " ORDER BY seq"
    ).fetchall()
    first = rebuilt[0][0]
    before_ms = int(NOON.timestamp() * 1000) + (first - 2) * 1000
    assert rebuilt[0] == (first, "entry", 100, "valid", 1, before_ms, "unknown", "")
    assert [row[0] for row in rebuilt] == list(range(first, first + salvaged.rebuilt))
    connection.close()


def test_a_ticket_that_was_admitted_on_a_lost_page_does_not_come_in_again(folder):
    overwrite(folder / "journal.db", pages_of(folder, "scan")[-3])
    connection, _ = opened(folder)
    (rebuilt,) = connection.execute("SELECT max(seq) FROM scan WHERE boot = ''").fetchone()
    connection.close()
    counter = Counter(folder, monotonic=0.0)
    decided = counter.decide(scan(f"T{rebuilt - 1:03}", moment(400)))
    assert decided.verdict.reason is Reason.ALREADY_SCANNED
    sent = counter.outbox.freeze("S1", 500, moment(400))
    assert len(sent) == SCANS - 100
    assert {row.barcode_id for row in sent} == {f"T{number:03}" for number in range(100, SCANS)}
    counter.close()


def test_scans_that_the_server_has_are_missing_with_their_times(folder):
    overwrite(folder / "journal.db", pages_of(folder, "scan")[2])
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert salvaged.missing == SCANS - salvaged.scans > 10
    assert salvaged.since is not None
    assert salvaged.until is not None
    assert (salvaged.until - salvaged.since).total_seconds() == salvaged.missing + 1
    assert f"missing: {salvaged.missing} scans between 2027-07-16 12:00:" in salvaged.describe()
    connection.close()


def test_admissions_whose_barcodes_are_lost_are_counted_and_still_count(folder):
    overwrite(folder / "journal.db", pages_of(folder, "outbox")[1])
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert salvaged.unsendable == SCANS - 100 - salvaged.waiting > 10
    assert f"the server will not hear of {salvaged.unsendable} admissions" in salvaged.describe()
    connection.close()
    counter = Counter(folder)
    assert counter.decide(scan("T100", moment(400))).verdict.reason is Reason.ALREADY_SCANNED
    counter.close()


def test_lost_notes_are_put_back_as_other_rows_tell_them(folder):
    overwrite(folder / "journal.db", pages_of(folder, "meta")[0])
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert not salvaged.secret_lost
    notes = dict(connection.execute("SELECT key, value FROM meta"))
    assert notes == {"service": "S1", "mode:A": "locked", "emergency": 1, "secret": secret_of(folder)}
    connection.close()


def test_a_file_that_is_cut_short_keeps_the_rows_of_what_is_left(folder):
    whole = (folder / "journal.db").read_bytes()
    (folder / "journal.db").write_bytes(whole[: len(whole) // 2 + 100])
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert 30 < salvaged.scans < SCANS
    assert not salvaged.secret_lost
    connection.close()


GONE: dict[str, Callable[[Path], object]] = {
    "not there": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "zeroes": lambda path: path.write_bytes(bytes(10 * PAGE_BYTES)),
    "noise": lambda path: path.write_bytes(NOISE * 10),
}


@pytest.mark.parametrize("how", GONE)
def test_of_a_journal_that_is_gone_the_mirror_has_the_secret(folder, how):
    GONE[how](folder / "journal.db")
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert (salvaged.scans, salvaged.waiting, salvaged.secret_lost) == (0, 0, False)
    assert "may come in again until a download" in salvaged.describe()
    assert Journal(connection).secret() == secret_of(folder)
    connection.close()
    counter = Counter(folder)
    assert counter.decide(scan("T007", moment(400))).verdict.reason is Reason.VALID
    counter.close()


def test_if_both_files_are_noise_the_secret_is_lost_and_says_so(folder):
    for name in ("journal.db", "mirror.db"):
        (folder / name).write_bytes(NOISE * 10)
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert salvaged.secret_lost
    assert "no ticket is known until" in salvaged.describe()
    assert len(Journal(connection).secret()) == 32
    connection.close()


def test_a_journal_on_a_disk_that_can_not_be_written_is_salvaged_into_memory(folder):
    overwrite(folder / "journal.db", pages_of(folder, "scan")[-3])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    *connections, salvaged = read_journal(folder / "journal.db")
    assert salvaged is not None
    assert (salvaged.scans, salvaged.kept, salvaged.secret_lost) == (SCANS, None, False)
    for connection in connections:
        assert counts(connection) == EVERYTHING
        connection.close()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_secret_that_is_known_is_taken(folder):
    for name in ("journal.db", "mirror.db"):
        (folder / name).write_bytes(NOISE * 10)
    connection, salvaged = opened(folder, suspect=True, secret=b"s" * 32)
    assert salvaged is not None
    assert not salvaged.secret_lost
    assert Journal(connection).secret() == b"s" * 32
    connection.close()


def crashed(folder: Path) -> Path:
    """Twenty more scans, all in the WAL, as a killed process leaves it."""
    counter = Counter(folder)
    counter.load(*(ticket(f"N{number:03}") for number in range(20)))
    for number in range(20):
        counter.decide(scan(f"N{number:03}", moment(500 + number)))
    left = {path: path.read_bytes() for path in folder.iterdir()}
    counter.close()
    for path, content in left.items():
        path.write_bytes(content)
    return folder / "journal.db-wal"


def test_a_wal_that_a_killed_process_left_is_no_damage(folder):
    crashed(folder)
    connection, salvaged = opened(folder)
    assert salvaged is None
    assert counts(connection)["scan"] == SCANS + 20
    connection.close()


@pytest.mark.parametrize("frame", [0, 3, 11])
def test_commits_behind_a_damaged_place_in_the_wal_are_not_lost(folder, frame):
    wal = crashed(folder)
    with wal.open("r+b") as file:
        file.seek(32 + frame * (PAGE_BYTES + 24) + 100)
        file.write(NOISE[:500])
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert salvaged.scans == SCANS + 20
    # Each row may have gone up in a commit that is lost: a download shows whether it did.
    assert Outbox(connection).freeze("S1", 50, moment(600)) != ()
    (sending,) = connection.execute("SELECT count(*) FROM outbox WHERE sending = 1").fetchone()
    assert sending == salvaged.waiting
    connection.close()


def test_a_wal_of_noise_is_kept_beside_the_file(folder):
    wal = crashed(folder)
    wal.write_bytes(NOISE * 5)
    connection, salvaged = opened(folder)
    assert salvaged is not None
    assert salvaged.kept is not None
    assert salvaged.scans == SCANS
    assert salvaged.kept.with_name(f"{salvaged.kept.name}-wal").read_bytes() == NOISE * 5
    connection.close()


def test_a_header_of_noise_does_not_keep_the_wal_from_being_read(folder):
    crashed(folder)
    overwrite(folder / "journal.db", 1)
    connection, salvaged = opened(folder)
    assert salvaged is not None or counts(connection)["scan"] == SCANS + 20
    assert counts(connection)["scan"] == SCANS + 20
    connection.close()


def test_damage_that_was_come_upon_is_not_looked_for(folder):
    connection, salvaged = opened(folder, suspect=True)
    assert salvaged is not None
    assert counts(connection) == EVERYTHING
    connection.close()


def test_a_journal_from_a_newer_gated_is_refused_and_left_alone(folder):
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99"):
        opened(folder)
    (folder / "journal.db-wal").write_bytes(NOISE)
    with pytest.raises(StoreError, match="schema 99"):
        opened(folder)
    assert kept_in(folder) == []


def test_a_disk_that_can_not_be_used_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("step", ["rename", "carry"])
def test_a_power_cut_in_the_middle_leaves_what_the_next_start_needs(folder, monkeypatch, step):
    overwrite(folder / "journal.db", 1)
    wal = folder / "journal.db-wal"
    wal.write_bytes(NOISE)

    class PowerCut(Exception):
        pass

    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    renamed = []

    def rename_twice(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 3:
            raise PowerCut
        return path_rename(self, target)

    path_rename = Path.rename
    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", rename_twice)
        else:
            patch.setattr(salvage, "_mend", cut)
        with pytest.raises(PowerCut):
            opened(folder)
    connection, _ = opened(folder)
    assert counts(connection) == EVERYTHING
    connection.close()
    kept = kept_in(folder)
    assert [path.read_bytes() for path in kept if path.suffix == ".damaged-wal"] == [NOISE]
    assert [path.read_bytes()[:PAGE_BYTES] for path in kept if path.suffix == ".damaged"] == [NOISE]
    assert list(folder.glob("*.salvag*")) == []


def test_a_salvaged_journal_that_can_not_be_put_in_its_place_is_what_is_read(folder, monkeypatch):
    root = pages_of(folder, "scan")[0]
    crashed(folder)
    overwrite(folder / "journal.db", root)
    path_rename = Path.rename

    def rename_all_but_the_file(self: Path, target: Path) -> Path:
        if self.name == "journal.db":
            raise OSError("the disk fails")
        return path_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_all_but_the_file)
    with pytest.raises(StoreError, match="the disk fails"):
        opened(folder, suspect=True)
    *connections, _ = read_journal(folder / "journal.db", suspect=True)
    for connection in connections:
        assert counts(connection)["scan"] == SCANS + 20
        connection.close()


def test_who_reads_a_damaged_journal_goes_on_reading_it_and_does_not_change_what_is_kept(folder):
    path, leaf = folder / "journal.db", pages_of(folder, "movement")[1]
    crashed(folder)
    first = open_database(path, "journal", synchronous="OFF")
    second = database.open_beside(path)
    overwrite(path, leaf)
    before = [path.read_bytes(), (folder / "journal.db-wal").read_bytes()]
    fresh, salvaged = opened(folder, suspect=True)
    assert salvaged is not None
    assert salvaged.kept is not None
    assert counts(second) == counts(first) == counts(fresh) == {**EVERYTHING, "scan": 320, "outbox": 220}
    for connection in (second, first, fresh):
        connection.close()
    assert [salvaged.kept.read_bytes(), Path(f"{salvaged.kept}-wal").read_bytes()] == before


def test_a_long_outbox_is_counted_without_looking_through_it_for_each_scan(folder):
    connection, _ = opened(folder)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {salvage._UNSENDABLE}")]
    connection.close()
    assert not any("CORRELATED" in step for step in plan)


def test_a_purge_leaves_nothing_of_the_damaged_files(folder, monkeypatch):
    overwrite(folder / "journal.db", 1)
    (folder / "journal.db-wal").write_bytes(NOISE)
    connection, _ = opened(folder)
    connection.close()
    assert len(kept_in(folder)) == 2
    monkeypatch.setattr(Path, "unlink", lambda _: None)
    forget_kept(folder)
    assert all(not path.read_bytes().strip(b"\0") for path in kept_in(folder))
    monkeypatch.undo()
    forget_kept(folder)
    assert kept_in(folder) == []


def test_looking_for_damage_ends_in_time(tmp_path):
    connection = open_database(tmp_path / "file.db", "journal", synchronous="OFF")
    connection.execute(
        "INSERT INTO occurrence SELECT n, 'k', '', '', '', '', 0, 0, '' FROM (WITH RECURSIVE c(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) SELECT n FROM c)"
    )
    began = time.monotonic()
    assert database.is_sound(connection, within_s=0.0)
    assert time.monotonic() - began < 1
    assert database.is_sound(connection, within_s=9.0)
    connection.close()
