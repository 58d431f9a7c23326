"""Opens a SQLite file as gated wants it, and brings its schema up to date.

One connection a file, used by one thread, does all reads, writes and checkpoints: SQLite before 3.51.3 can
corrupt a WAL that two connections reset at once (release notes of 3.51.3). Checkpoints are ours to time, so
that no scan pays for one.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from gated.errors import StoreError

Connection = sqlite3.Connection


class Damaged(StoreError):
    """The file is there, and is no database any more."""

    hint = "Keep the file for whoever mends it, move it away, and start again."
    retry = False


def open_database(path: Path, kind: str, *, synchronous: str) -> Connection:
    """Opens or creates ``path`` and applies ``schema/<kind>-<n>.sql`` in order, each in one transaction.

    Only the owner may read the file. ``synchronous`` is SQLite's FULL or NORMAL. Raises StoreError; Damaged
    if the file is no database.
    """
    try:
        path.touch(mode=0o600)  # SQLite gives the WAL the same mode
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    try:
        for pragma in (
            f"synchronous = {synchronous}",
            "journal_mode = WAL",
            "wal_autocheckpoint = 0",
            "journal_size_limit = 8388608",  # bytes; a WAL grown by a bulk load shrinks again
            "mmap_size = 0",
            "foreign_keys = OFF",  # the only reference is written in the same step as its target
            "secure_delete = ON",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")
        migrate(connection, kind)
    except sqlite3.Error as error:
        connection.close()
        trouble = StoreError if isinstance(error, sqlite3.OperationalError) else Damaged
        raise trouble(f"{path}: {error}") from error
    except StoreError:
        connection.close()
        raise
    return connection


def migrate(connection: Connection, kind: str) -> None:
    """Applies the schema steps that this file has not seen. Raises StoreError if it is from a newer gated."""
    steps = _steps(kind)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise StoreError(
            f"the {kind} has schema {version}, this gated knows {len(steps)}",
            hint="It was written by a newer gated: install that one again.",
        )
    for number, script in enumerate(steps[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """All that is written inside is written, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _steps(kind: str) -> list[str]:
    folder = files("gated.store") / "schema"
    numbered = {
        int(entry.name.removeprefix(f"{kind}-").removesuffix(".sql")): entry
        for entry in folder.iterdir()
        if entry.name.startswith(f"{kind}-")
    }
    return [numbered[number].read_text("utf-8") for number in sorted(numbered)]
