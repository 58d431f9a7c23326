"""Opens a SQLite file as gated wants it, and brings its schema up to date.

One connection a file, used by one thread, does all writes. A second one only reads, for when the first waits
for the disk; it is closed before the first, or it would be the one to remove the WAL. Checkpoints are ours to
time, so that no scan pays for one. Those of the mirror have a connection of their own, and nobody writes it
meanwhile: SQLite before 3.51.3 can corrupt a WAL that two connections write or reset at once (release notes
of 3.51.3).

Where the disk can't be written a file is read in place, or a new one is begun in memory.
"""

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from gated.errors import StoreError


class Connection(sqlite3.Connection):
    """A connection that remembers whether something was taken back."""

    rolled_back = False
    """Set by a :class:`Transaction` that was: its pages may be in the WAL beyond the last commit."""


# For each None and bool that is bound, sqlite3 looks for an adapter, and without one for two attributes more.
# In Python 3.11 that takes 0.3 us, and a third of it with these, which change nothing.
sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type] # which answers None, with no frame made
sqlite3.register_adapter(bool, int)

# KiB of pages that a connection which writes keeps in memory; SQLite's own 2000 fill up in a download, and
# stay. The largest transactions, which put tickets in place, write a hundred pages of 4 KiB: a smaller cache
# would write many of them twice. A page that is not kept comes from the system's cache.
_CACHE_KIB = 512
# Primary result codes (https://sqlite.org/rescode.html): a malformed file, and one that is no database.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(StoreError):
    """The file is there, and is no database any more."""

    hint = "Keep the file for whoever mends it, move it away, and start again."
    retry = False


class Newer(StoreError):
    """The file is from a newer gated."""

    hint = "It was written by a newer gated: install that one again."
    retry = False


def open_database(path: Path, kind: str, *, synchronous: str) -> Connection:
    """Opens or creates ``path`` and applies ``schema/<kind>-<n>.sql`` in order, each in one transaction.

    Only the owner may read the file. ``synchronous`` is SQLite's FULL or NORMAL. Raises StoreError; Damaged
    if the file is no database.
    """
    try:
        path.touch(mode=0o600)  # SQLite gives the WAL the same mode
        connection = _connect(path, "rwc")
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    with _closed_on_error(connection, path):
        for pragma in (
            f"synchronous = {synchronous}",
            "journal_mode = WAL",
            "wal_autocheckpoint = 0",
            "journal_size_limit = 8388608",  # bytes; a WAL grown by a bulk load shrinks again
            "mmap_size = 0",
            f"cache_size = -{_CACHE_KIB}",  # negative: in KiB
            "foreign_keys = OFF",  # the only reference is written in the same step as its target
            "secure_delete = ON",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")
        migrate(connection, kind)
    return connection


def try_to_write(connection: Connection, kind: str) -> None:
    """Commits something that changes nothing. Raises sqlite3.Error where the disk does not take it."""
    connection.execute(f"PRAGMA user_version = {len(_steps(kind))}")


def open_to_read(path: Path, kind: str | None) -> Connection:
    """A connection to a file whose disk can't be written: it is read in place, with its WAL, unlocked.

    Every write fails. Nobody may write the file meanwhile. Closing this lets go of the locks that the process
    has on the file. ``kind`` says which schema it has to have; None takes any. Raises StoreError; Newer if
    the file is from a newer gated.
    """
    try:
        wal = path.with_name(f"{path.name}-wal")
        # A WAL that is not there would be made; without locks its index is kept in memory, where it needs to
        # be exclusive (https://sqlite.org/wal.html, "Read-Only Databases" and "Without Shared-Memory").
        how = "vfs=unix-none" if wal.exists() and wal.stat().st_size else "immutable=1"
        connection = _connection(f"{path.absolute().as_uri()}?{how}&mode=ro")
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    with _closed_on_error(connection, path):
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if kind is not None:
            refuse_newer(kind, version)
        if kind is not None and version < len(_steps(kind)):
            raise StoreError(f"{path} has schema {version}, and can't be brought up to date")
    return connection


def open_in_memory(kind: str, *, megabytes: int | None = None) -> tuple[Connection, str]:
    """A new database in memory, of at most so many megabytes, and its name for :func:`beside_in_memory`."""
    name = f"/gated-{secrets.token_hex(8)}"
    connection = _connection(f"file:{name}?vfs=memdb")
    migrate(connection, kind)
    if megabytes is not None:
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {(megabytes << 20) // page_bytes}")
    return connection, name


def beside_in_memory(name: str) -> Connection:
    """Another connection to a database in memory, which only reads; it is gone with the last of them."""
    return _connection(f"file:{name}?vfs=memdb&mode=ro")


def open_beside(path: Path, *, for_checkpoints: bool = False) -> Connection:
    """Another connection to ``path``, which this process has open already, that only reads.

    One ``for_checkpoints`` makes those, synced as the mirror's writer would, and writes nothing else.

    It reads at once, because opening a WAL is a write to the file system: later, on a disk that hangs, it
    would hang too. Raises StoreError.
    """
    try:
        connection = _connect(path, "rw" if for_checkpoints else "ro")
        for pragma in ("cache_size = -256", "synchronous = NORMAL", "wal_autocheckpoint = 0"):  # KiB
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT count(*) FROM meta").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    return connection


def _connect(path: Path, mode: str) -> Connection:
    """A connection that shares the WAL's index, in memory, with the others of this process alone.

    So nothing is written to look something up: readers of an index that is a file write marks into it, and
    would hang with the disk (https://sqlite.org/vfs.html, "unix-excl").
    """
    return _connection(f"{path.absolute().as_uri()}?vfs=unix-excl&mode={mode}")


def _connection(where: str) -> Connection:
    return sqlite3.connect(
        where, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0, factory=Connection
    )


@contextmanager
def _closed_on_error(connection: Connection, path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        connection.close()
        trouble = Damaged if damaged(error) else StoreError
        raise trouble(f"{path}: {error}") from error
    except StoreError:
        connection.close()
        raise


def damaged(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, rather than the disk full, read-only or failing."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED  # the low byte is the primary code


def is_sound(connection: Connection, *, within_s: float) -> bool:
    """Whether SQLite finds no damage in the file (``PRAGMA quick_check``).

    Looks for no longer than ``within_s`` seconds: what it did not come to counts as sound. Raises
    sqlite3.Error where the file can't be read.
    """
    until = time.monotonic() + within_s
    connection.set_progress_handler(lambda: time.monotonic() > until, 1000)
    try:
        return bool(connection.execute("PRAGMA quick_check (1)").fetchone() == ("ok",))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return True
        if damaged(error):
            return False
        raise
    finally:
        connection.set_progress_handler(None, 0)


def migrate(connection: Connection, kind: str) -> None:
    """Applies the schema steps that this file has not seen. Raises Newer if it is from a newer gated."""
    steps = _steps(kind)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    refuse_newer(kind, version)
    for number, script in enumerate(steps[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def refuse_newer(kind: str, version: int) -> None:
    """Raises Newer if a schema version is above those that this gated knows."""
    known = len(_steps(kind))
    if version > known:
        raise Newer(f"the {kind} has schema {version}, this gated knows {known}")


class Transaction:
    """All that is written inside is written, or none of it."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rolled_back = True
                self._db.execute("ROLLBACK")


def _steps(kind: str) -> list[str]:
    folder = files("gated.store") / "schema"
    numbered = {
        int(entry.name.removeprefix(f"{kind}-").removesuffix(".sql")): entry
        for entry in folder.iterdir()
        if entry.name.startswith(f"{kind}-")
    }
    return [numbered[number].read_text("utf-8") for number in sorted(numbered)]
