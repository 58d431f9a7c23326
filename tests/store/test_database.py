import sqlite3
from pathlib import Path

import pytest

from gated.errors import StoreError
from gated.store.database import (
    Damaged,
    Newer,
    Transaction,
    beside_in_memory,
    damaged,
    is_sound,
    open_database,
    open_in_memory,
    open_to_read,
)


def opened(path: Path, kind: str = "journal", synchronous: str = "FULL") -> sqlite3.Connection:
    return open_database(path, kind, synchronous=synchronous)


@pytest.mark.parametrize("kind", ["journal", "mirror"])
def test_a_new_file_gets_the_whole_schema_and_an_old_one_is_left_alone(tmp_path, kind):
    path = tmp_path / "file.db"
    first = opened(path, kind)
    first.execute("INSERT INTO meta VALUES ('key', 1)")
    version = first.execute("PRAGMA user_version").fetchone()
    first.close()
    second = opened(path, kind)
    assert second.execute("SELECT value FROM meta").fetchone() == (1,)
    assert second.execute("PRAGMA user_version").fetchone() == version
    second.close()


@pytest.mark.parametrize("kind", ["journal", "mirror"])
def test_a_file_from_a_newer_gated_is_refused_with_a_hint(tmp_path, kind):
    path = tmp_path / "file.db"
    connection = opened(path, kind)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99") as refused:
        opened(path, kind)
    assert "newer gated" in refused.value.hint


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_a_file_is_opened_as_durable_as_asked_and_never_checkpoints_by_itself(tmp_path, synchronous, level):
    connection = opened(tmp_path / "file.db", synchronous=synchronous)
    asked = {
        pragma: connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        for pragma in ("synchronous", "journal_mode", "wal_autocheckpoint", "secure_delete")
    }
    assert asked == {
        "synchronous": level,
        "journal_mode": "wal",
        "wal_autocheckpoint": 0,
        "secure_delete": 1,
    }
    connection.close()


def test_a_connection_that_writes_keeps_half_a_megabyte_of_pages(tmp_path):
    connection = opened(tmp_path / "file.db")
    assert connection.execute("PRAGMA cache_size").fetchone() == (-512,)
    connection.close()


@pytest.mark.parametrize("wal", ["full", "empty", "gone"])
def test_a_file_is_read_in_place_with_its_wal_and_nothing_is_written(tmp_path, wal):
    path = tmp_path / "file.db"
    writing = opened(path)
    writing.execute("INSERT INTO meta VALUES ('key', 1)")
    if wal != "full":
        writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    left = {each: each.read_bytes() for each in tmp_path.iterdir()}
    writing.close()
    if wal != "gone":
        for each, content in left.items():
            each.write_bytes(content)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    reading = [open_to_read(path, "journal") for _ in range(2)]
    for connection in reading:
        assert connection.execute("SELECT value FROM meta WHERE key = 'key'").fetchone() == (1,)
        connection.execute("CREATE TEMP TABLE recent (digest)")
        connection.execute("INSERT INTO recent VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM meta")
        connection.close()
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("version", "trouble"),
    [(99, Newer), (0, StoreError)],
    ids=["newer", "older"],
)
def test_a_file_of_another_schema_is_not_read_in_place(tmp_path, version, trouble):
    connection = opened(tmp_path / "file.db")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(trouble, match="schema"):
        open_to_read(tmp_path / "file.db", "journal")
    open_to_read(tmp_path / "file.db", None).close()


def test_noise_and_nothing_can_not_be_read_in_place(tmp_path):
    (tmp_path / "noise.db").write_bytes(b"no database" * 999)
    with pytest.raises(Damaged):
        open_to_read(tmp_path / "noise.db", "journal")
    with pytest.raises(StoreError):
        open_to_read(tmp_path / "none.db", "journal")
    assert [path.name for path in tmp_path.iterdir()] == ["noise.db"]


def test_a_database_in_memory_is_read_beside_and_takes_no_more_than_it_may():
    writing, name = open_in_memory("mirror", megabytes=1)
    reading = beside_in_memory(name)
    writing.execute("INSERT INTO meta VALUES ('key', 1)")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        writing.execute("INSERT INTO meta VALUES ('large', zeroblob(1 << 20))")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reading.execute("DELETE FROM meta")
    assert reading.execute("SELECT key FROM meta").fetchall() == [("key",)]
    reading.close()
    writing.close()


def test_only_the_owner_can_read_the_files(tmp_path):
    connection = opened(tmp_path / "file.db")
    connection.execute("INSERT INTO meta VALUES ('key', 1)")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "file.db": 0o600,
        "file.db-wal": 0o600,
    }
    connection.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path):
    (tmp_path / "file.db").write_bytes(b"no database" * 999)
    with pytest.raises(Damaged):
        opened(tmp_path / "file.db")


def raised(statement: str, path: Path) -> sqlite3.Error:
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.Error) as error:
        connection.execute(statement)
    connection.close()
    return error.value


def test_damage_is_told_from_a_disk_that_fails(tmp_path):
    noise, sound = tmp_path / "noise.db", tmp_path / "sound.db"
    noise.write_bytes(b"no database" * 999)
    opened(sound).close()
    assert damaged(raised("SELECT 1 FROM sqlite_schema", noise))
    assert not damaged(raised("CREATE TABLE meta (a)", sound))
    assert not damaged(raised("SELECT nothing", sound))
    assert not damaged(sqlite3.OperationalError("database or disk is full"))


def test_damage_among_the_pages_is_found_by_looking_for_it(tmp_path):
    path = tmp_path / "file.db"
    connection = opened(path)
    connection.execute("CREATE TABLE filled (a TEXT)")
    connection.execute("INSERT INTO filled SELECT hex(randomblob(99)) FROM pragma_function_list LIMIT 99")
    assert is_sound(connection, within_s=9)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'filled'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 4096)
    connection = opened(path)
    assert not is_sound(connection, within_s=9)
    connection.close()


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        opened(tmp_path / "nowhere" / "file.db")


def test_a_transaction_that_fails_leaves_nothing_behind_and_does_not_block_the_next(tmp_path):
    connection = opened(tmp_path / "file.db")

    def write_twice() -> None:
        with Transaction(connection):
            connection.execute("INSERT INTO meta VALUES ('a', 1)")
            connection.execute("INSERT INTO meta VALUES ('a', 1)")

    with pytest.raises(sqlite3.IntegrityError):
        write_twice()
    with Transaction(connection):
        connection.execute("INSERT INTO meta VALUES ('b', 1)")
    assert connection.execute("SELECT key FROM meta").fetchall() == [("b",)]
    connection.close()


def test_nothing_and_truth_are_bound_as_null_and_as_numbers(tmp_path):
    connection = open_database(tmp_path / "journal.db", "journal", synchronous="OFF")
    query = "SELECT ?1, typeof(?1), ?2, typeof(?2), ?3, typeof(?3)"
    assert connection.execute(query, (None, True, False)).fetchone() == (
        None,
        "null",
        1,
        "integer",
        0,
        "integer",
    )
    connection.close()
