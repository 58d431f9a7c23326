import sqlite3
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.store.pages import PAGE_BYTES, Nonsense, Pages, Wal, cells, kinds_of, read_wal, split, values

NO_WAL = Wal({}, damaged=False, size=None)

value = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
# Texts that do not fit their page, and go on in others.
long = st.integers(900, 9000).map(lambda length: "é" * length)


def read(path: Path) -> list[tuple]:
    """Every record of a file, with its rowid, as our reader finds it."""
    found = []
    with Pages(path, read_wal(path.with_name(f"{path.name}-wal"))) as pages:
        for page in pages:
            for rowid, record in cells(page, pages.page):
                header, body = split(record)
                found.append((rowid, *values(header, body)))
    return found


def made(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "wal_autocheckpoint = 0", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, a, b, c)")
    connection.execute("CREATE TABLE w (a TEXT, b, PRIMARY KEY (a)) WITHOUT ROWID")
    return connection


@settings(max_examples=25)
@given(
    st.lists(st.tuples(value | long, value, value), max_size=60),
    st.dictionaries(st.text(min_size=1), value | long, max_size=30),
    st.booleans(),
)
def test_every_record_is_read_as_sqlite_reads_it(tmp_path_factory, rows, named, checkpointed):
    path = tmp_path_factory.mktemp("pages") / "file.db"
    connection = made(path)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (a, b, c) VALUES (?, ?, ?)", rows)
    connection.executemany("INSERT INTO w VALUES (?, ?)", named.items())
    connection.execute("COMMIT")
    if checkpointed:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    expected = connection.execute("SELECT k, NULL, a, b, c FROM t").fetchall()
    expected += connection.execute("SELECT NULL, a, b FROM w").fetchall()
    assert sorted(map(repr, read(path))) == sorted(map(repr, expected))
    connection.close()


def test_the_wal_outranks_the_file_and_shows_what_was_committed_alone(tmp_path):
    path = tmp_path / "file.db"
    connection = made(path)
    connection.execute("INSERT INTO t (a) SELECT 'old' FROM pragma_function_list LIMIT 500")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("UPDATE t SET a = 'new'")
    connection.execute("BEGIN")
    connection.execute("UPDATE t SET a = 'never'")
    connection.execute("PRAGMA cache_spill = 1")
    assert {row[2] for row in read(path)} == {"new"}
    connection.execute("ROLLBACK")
    connection.close()


def commits(path: Path) -> tuple[sqlite3.Connection, Path, list[int]]:
    """A file with four commits in its WAL, and where each of them ends there."""
    connection = made(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wal = path.with_name(f"{path.name}-wal")
    ends = []
    for number in range(4):
        connection.execute("INSERT INTO t (a) VALUES (?)", (f"row {number}",))
        ends.append(wal.stat().st_size)
    return connection, wal, ends


def test_the_torn_end_that_a_power_cut_leaves_is_no_damage(tmp_path):
    connection, wal, ends = commits(tmp_path / "file.db")
    whole = wal.read_bytes()
    for cut in (b"", whole[: ends[2] + 100], whole[: ends[2]] + bytes(ends[3] - ends[2]), bytes(len(whole))):
        wal.write_bytes(cut)
        assert not read_wal(wal).damaged
    connection.close()


@pytest.mark.parametrize(("start", "stop"), [(0, 32), (0, 100), (40, 60), (3000, 4100)])
def test_a_wal_that_is_damaged_before_a_commit_says_so_and_the_rest_is_read(tmp_path, start, stop):
    connection, wal, _ = commits(tmp_path / "file.db")
    whole = bytearray(wal.read_bytes())
    whole[start:stop] = b"\xa5" * (stop - start)
    wal.write_bytes(whole)
    found = read_wal(wal)
    assert found.damaged
    with Pages(tmp_path / "file.db", found) as pages:
        texts = [values(*split(record))[1] for page in pages for _, record in cells(page, pages.page)]
    assert [text for text in texts if isinstance(text, str)] == [f"row {number}" for number in range(4)]
    connection.close()


def test_frames_of_an_older_round_are_not_taken_for_commits(tmp_path):
    connection, wal, _ = commits(tmp_path / "file.db")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.execute("INSERT INTO t (a) VALUES ('newest')")  # the WAL begins again; older frames follow
    assert wal.stat().st_size > 2 * PAGE_BYTES
    found = read_wal(wal)
    assert (found.damaged, len(found.pages)) == (False, 1)
    connection.close()


@settings(max_examples=200)
@given(st.integers(0, 10**9), st.sampled_from([2, 5, 10, 13, 0, 77]))
def test_noise_is_nonsense_and_never_anything_worse(seed, kind):
    page = bytes([kind]) + Random(seed).randbytes(PAGE_BYTES - 1)
    try:
        for _, record in cells(page, lambda _: page):
            header, body = split(record)
            kinds_of(header)
            values(header, body)
    except Nonsense:
        pass


def test_a_file_that_is_not_there_has_no_pages(tmp_path):
    with Pages(tmp_path / "none.db", NO_WAL) as pages:
        assert list(pages) == []
        assert pages.page(3) == bytes(PAGE_BYTES)
