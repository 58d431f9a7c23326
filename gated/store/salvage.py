"""Opens the journal, whatever became of it: what can be read of a damaged one is carried into a fresh file.

- It is looked at before SQLite opens it, because SQLite silently drops a WAL that it can't read; then for as
  long as a start can bear. Damage farther in shows when a query comes upon it, and brings us here again:
  then the second desk goes on by what can be read. A ticket whose scans it can't read is denied meanwhile.
- A damaged file is never written to, and stays beside the fresh one until a purge. The fresh one takes its
  place in one step: a power cut leaves either.
- The secret has a second copy in the mirror: without it neither file would know a ticket any more.

What is lost: of a scan on a damaged page, all that its outbox row does not tell. A ticket that was admitted
with it may come in again until a download shows the check-in: in doubt a guest is let in. And which double
entries were reported: each is reported once more.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from gated.core.outbox import Kind
from gated.core.scan import Direction, TimeTrust, uuid7
from gated.core.verdict import ADMITTING, STATUS_MESSAGES, Origin, Reason
from gated.errors import StoreError
from gated.store.database import (
    Connection,
    Damaged,
    Newer,
    Transaction,
    beside_in_memory,
    is_sound,
    open_database,
    open_in_memory,
    open_to_read,
    refuse_newer,
)
from gated.store.pages import Nonsense, Pages, Value, Wal, cells, kinds_of, read_wal, split, values
from gated.store.privacy import SECRET_BYTES, Secrets

# Seconds of a start that may go into looking for damage: a million scans took 1.2 s where this was written.
_LOOK_S = 1.0
# Rows that are written at once.
_PIECE = 5_000
_TABLES = ("meta", "scan", "outbox", "occurrence")
_MAGIC = b"SQLite format 3\0"  # how a database file begins; its user_version is at byte 60
_SUFFIXES = ("", "-wal", "-shm")
# Status codes of exits; those below are of entries.
_FIRST_EXIT_CODE = 200
# Why, as far as the code alone tells.
_REASONS = {
    40: Reason.UNKNOWN,
    45: Reason.NOT_ALLOWED,
    50: Reason.ALREADY_SCANNED,
    60: Reason.EXPIRED,
    100: Reason.VALID,
    200: Reason.CHECKED_OUT,
    210: Reason.ALREADY_CHECKED_OUT,
    220: Reason.NOT_CHECKED_IN,
    230: Reason.NOT_IN_SERVICE,
}

_FOLLOWED = """
    SELECT seq, wall_ms, lead(seq) OVER (ORDER BY seq) AS next, lead(wall_ms) OVER (ORDER BY seq) AS till
    FROM scan
"""
_MISSING = f"""
    SELECT coalesce(sum(next - seq - 1), 0), min(wall_ms), max(till) FROM ({_FOLLOWED}) WHERE next > seq + 1
"""
# Admitted here, and neither acknowledged nor in the outbox.
_UNSENDABLE = """
    SELECT count(*) FROM scan WHERE moves = 1 AND acknowledged_ms IS NULL
    AND seq NOT IN (SELECT seq FROM outbox)
"""
_ORPHANS = """
    SELECT o.kind, o.seq, o.barcode_id, o.status_message, o.checked_in_time FROM outbox o
    WHERE NOT EXISTS (SELECT 1 FROM scan s WHERE s.seq = o.seq) ORDER BY o.seq
"""
_BEFORE = "SELECT wall_ms, running_ms FROM scan WHERE seq < ? ORDER BY seq DESC LIMIT 1"
# What the notes said last, as far as other rows tell.
_NOTES = (
    "INSERT OR IGNORE INTO meta SELECT 'service', service FROM scan WHERE service <> ''"
    " ORDER BY seq DESC LIMIT 1",
    "INSERT OR IGNORE INTO meta SELECT 'mode:' || lane, substr(what, 6) FROM occurrence"
    " WHERE kind = 'command' AND lane IS NOT NULL AND what LIKE 'mode %' ORDER BY seq DESC",
    "INSERT OR IGNORE INTO meta SELECT 'emergency', what = 'latched' FROM occurrence"
    " WHERE kind = 'emergency' AND what IN ('latched', 'ended') ORDER BY seq DESC LIMIT 1",
)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was read of a damaged journal, and what was not."""

    kept: Path | None
    """Where the damaged file is now; None if there was none."""
    scans: int = 0
    waiting: int = 0
    """Scans that wait for the server."""
    rebuilt: int = 0
    """Those of them of which only the outbox row was left: their lane is lost, their time may be."""
    unsendable: int = 0
    """Admissions that the server has not acknowledged and whose barcode is lost."""
    missing: int = 0
    """Scans that are known to be lost by their numbers; others may be lost at the end."""
    since: datetime | None = None
    until: datetime | None = None
    """The times of the scans round those that are missing."""
    unreadable: int = 0
    """Pages that made no sense."""
    secret_lost: bool = False

    def describe(self) -> str:
        """The whole of it in one line, for the log and the journal."""
        told = [f"read: {self.scans} scans, {self.waiting} of them waiting for the server"]
        if self.rebuilt:
            told.append(f"{self.rebuilt} of these without lane or exact time")
        if self.missing:
            told.append(f"missing: {self.missing} scans{self._when()}")
        if self.missing or not self.scans:
            told.append("tickets of lost scans may come in again until a download shows that they did")
        if self.unsendable:
            told.append(f"the server will not hear of {self.unsendable} admissions")
        if self.unreadable:
            told.append(f"{self.unreadable} pages made no sense")
        if self.secret_lost:
            told.append("the secret is lost: no ticket is known until they are downloaded again")
        if self.kept is not None:
            told.append(f"kept as {self.kept.name}")
        return "; ".join(told)

    def _when(self) -> str:
        if self.since is None or self.until is None:
            return ""
        return f" between {self.since:%Y-%m-%d %H:%M:%S} and {self.until:%Y-%m-%d %H:%M:%S} UTC"


def open_journal(
    path: Path, *, suspect: bool = False, secret: bytes | None = None
) -> tuple[Connection, Salvaged | None]:
    """Opens or creates the journal at ``path``; says what was salvaged, if it was damaged or gone.

    ``suspect``: damage was found, so it is not looked for. ``secret`` is the gate's, where that is known;
    else its copy in the mirror is taken. Nobody may write the journal meanwhile; who reads it goes on with
    the damaged one. Raises StoreError where the disk can't be used, and where the file is of a newer gated.
    """
    try:
        _put_in_place(path)
        wal = read_wal(path.with_name(f"{path.name}-wal"))
        if not suspect and not wal.damaged and not _is_gone(path, wal):
            connection = _open_sound(path)
            if connection is not None:
                return connection, None
        salvaged = _salvage(path, wal, secret)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    return _open(path), salvaged


def read_journal(
    path: Path, *, suspect: bool = False, secret: bytes | None = None
) -> tuple[Connection, Connection, Salvaged | None]:
    """Two connections to what can be read of the journal at ``path``, whose disk can't be written.

    It is read in place; what can be read of a damaged one is carried into memory, one that is not there is
    begun there. ``suspect`` and ``secret`` are those of :func:`open_journal`. Raises Newer.
    """
    path = (_salvaged_beside(path) or [path])[-1]
    connection = None if suspect else _read_sound(path)
    if connection is not None:
        return connection, open_to_read(path, "journal"), None
    fresh, name = open_in_memory("journal")
    with contextlib.closing(fresh):
        salvaged = _fill_what_can_be(fresh, path, secret)
        return beside_in_memory(name), beside_in_memory(name), salvaged


def _read_sound(path: Path) -> Connection | None:
    """As :func:`_open_sound`, but for reading; also None where it has no secret yet, or is not there."""
    try:
        connection = open_to_read(path, "journal")
    except Newer:
        raise
    except StoreError:
        return None
    try:
        if is_sound(connection, within_s=_LOOK_S) and _secret(connection) is not None:
            return connection
    except sqlite3.Error:  # as good as damaged: what can be read is carried over
        pass
    connection.close()
    return None


def _fill_what_can_be(fresh: Connection, path: Path, secret: bytes | None) -> Salvaged | None:
    try:
        wal = read_wal(path.with_name(f"{path.name}-wal"))
        there = path.exists() or _is_gone(path, wal)
        salvaged = _fill(fresh, path, wal, secret)
    except OSError:  # not even that can be read
        _mend(fresh, secret or _mirrored_secret(path), lost_commits=False)
        return None
    return salvaged if there else None


def forget_kept(state_dir: Path) -> None:
    """Overwrites and removes the damaged files that were kept, for a purge. Raises OSError."""
    for path in kept_in(state_dir):
        with path.open("r+b") as file:
            size = path.stat().st_size
            for _ in range(0, size, 1 << 20):
                file.write(bytes(1 << 20))
            file.truncate(size)
            os.fsync(file.fileno())
        path.unlink()


def kept_in(state_dir: Path) -> list[Path]:
    """The damaged files that were kept, with what belonged to them, oldest first."""
    return sorted(state_dir.glob("*.damaged*"))


def _open(path: Path) -> Connection:
    return open_database(path, "journal", synchronous="FULL")


def _open_sound(path: Path) -> Connection | None:
    """The journal, unless it is damaged as far as can be seen in a moment."""
    try:
        connection = _open(path)
    except Damaged:
        return None
    if is_sound(connection, within_s=_LOOK_S):
        return connection
    connection.close()
    return None


def _is_gone(path: Path, wal: Wal) -> bool:
    """Whether there was a journal here that now is not: the mirror remembers its secret."""
    if path.exists() and path.stat().st_size:
        return False
    return bool(wal.pages) or _mirrored_secret(path) is not None


def _mirrored_secret(path: Path) -> bytes | None:
    """The secret's copy in the mirror, which nobody may have open; None where none can be read."""
    try:
        connection = open_to_read(path.with_name("mirror.db"), None)
    except StoreError:
        return None
    with contextlib.closing(connection):
        try:
            return _secret(connection)
        except sqlite3.Error:  # damaged: the mirror will be begun anew
            return None


def _secret(connection: Connection) -> bytes | None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    return row and bytes(row[0])


# The salvage


def _salvage(path: Path, wal: Wal, secret: bytes | None) -> Salvaged:
    """Carries what can be read into a fresh file, and puts that in the damaged one's place."""
    there = path.exists()
    fresh = path.with_suffix(".salvaging")
    _remove(fresh)
    try:
        connection = open_database(fresh, "journal", synchronous="OFF")
        try:
            salvaged = _fill(connection, path, wal, secret)
        finally:
            connection.close()
        _sync(fresh)
        fresh.rename(path.with_suffix(f".{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.salvaged"))
    finally:
        _remove(fresh)  # a disk that is full needs the room
    kept = _put_in_place(path)
    return replace(salvaged, kept=kept if there else None)


def _fill(fresh: Connection, path: Path, wal: Wal, secret: bytes | None) -> Salvaged:
    """Fills a fresh journal with what can be read of the one at ``path``, without a WAL."""
    with Pages(path, wal) as pages:
        first = pages.page(1)
        if first.startswith(_MAGIC):
            refuse_newer("journal", int.from_bytes(first[60:64], "big"))
        fresh.execute("PRAGMA journal_mode = OFF")  # nobody needs what was there before a failure
        unreadable = _carry_over(pages, fresh)
    found = _mend(fresh, secret or _mirrored_secret(path), lost_commits=wal.damaged)
    return replace(found, unreadable=unreadable)


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _put_in_place(path: Path) -> Path | None:
    """Moves the damaged file aside and the salvaged one in; also what a power cut has kept from it.

    Returns where the damaged file is now. The WAL goes first: a fresh file must not find an old one.
    """
    salvaged = _salvaged_beside(path)
    if not salvaged:
        return None
    kept = salvaged[-1].with_suffix(".damaged")
    for suffix in reversed(_SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    salvaged[-1].rename(path)
    _sync(path.parent)
    return kept


def _salvaged_beside(path: Path) -> list[Path]:
    """Salvaged files, whole, that have not come to the damaged one's place yet; the latest is the last."""
    return sorted(path.parent.glob(f"{path.stem}.*.salvaged"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A record belongs to the table whose columns its values fit, by kind and in number; columns that a later
# schema adds have defaults, and may be missing. This tells the schema's tables apart, and from its indexes.

_KINDS = {"INTEGER": (int,), "TEXT": (str,), "BLOB": (bytes,), "ANY": (int, str, bytes)}
_Statement = str


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    kinds: tuple[tuple[type, ...], ...]
    fewest: int
    """Columns that every row has, whichever schema it was written under."""
    rowid: bool

    def holds(self, kinds: tuple[type, ...]) -> bool:
        fits = zip(kinds, self.kinds, strict=False)
        return self.fewest <= len(kinds) <= len(self.columns) and all(kind in each for kind, each in fits)

    def insert(self, count: int) -> _Statement:
        names, marks = ", ".join(self.columns[:count]), ", ".join("?" * count)
        return f"INSERT OR REPLACE INTO {self.name} ({names}) VALUES ({marks})"


def _table(connection: Connection, name: str) -> _Table:
    columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
    kinds, fewest = [], 0
    for number, _, kind, required, default, _ in columns:
        kinds.append(_KINDS[kind] if required else (*_KINDS[kind], type(None)))
        fewest = number + 1 if required and default is None else fewest
    rowid = [(column[2], column[5]) for column in columns if column[5]] == [("INTEGER", 1)]
    return _Table(name, tuple(column[1] for column in columns), tuple(kinds), fewest, rowid)


class _Rows:
    """The rows of a damaged file's pages, each with the statement that writes it."""

    def __init__(self, tables: Iterable[_Table]) -> None:
        self._tables = tuple(tables)
        self._owners: dict[tuple[bytes, bool], _Statement | None] = {}  # by what a header says
        self.unreadable = 0

    def of(self, pages: Pages) -> Iterator[tuple[_Statement, tuple[Value, ...]]]:
        """All of them; ``unreadable`` counts the pages that made no sense."""
        for page in pages:
            try:
                for rowid, record in cells(page, pages.page):
                    if (row := self._row(rowid, record)) is not None:
                        yield row
            except Nonsense:
                self.unreadable += 1

    def _row(self, rowid: int | None, record: bytes) -> tuple[_Statement, tuple[Value, ...]] | None:
        try:
            header, body = split(record)
            if (statement := self._owner(header, rowid=rowid is not None)) is None:
                return None
            row = values(header, body)
        except Nonsense:
            return None
        return statement, row if rowid is None else (rowid, *row[1:])

    def _owner(self, header: bytes, *, rowid: bool) -> _Statement | None:
        key = header, rowid
        if key not in self._owners:
            kinds = kinds_of(header)
            if rowid:  # which SQLite keeps beside the record, not in it
                kinds = (int, *kinds[1:])
            owners = (table for table in self._tables if table.rowid is rowid and table.holds(kinds))
            self._owners[key] = next((table.insert(len(kinds)) for table in owners), None)
        return self._owners[key]


def _carry_over(pages: Pages, fresh: Connection) -> int:
    """Copies every row that can be read; returns how many pages made no sense."""
    rows = _Rows(_table(fresh, name) for name in _TABLES)
    indexes = fresh.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''"
    ).fetchall()
    for name, _ in indexes:  # built at the end: row by row took three times as long
        fresh.execute(f"DROP INDEX {name}")
    for piece in _pieces(rows.of(pages)):
        with Transaction(fresh):
            for statement, row in piece:
                fresh.execute(statement, row)
    for _, creation in indexes:
        fresh.execute(creation)
    return rows.unreadable


def _pieces(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while piece := list(islice(rows, _PIECE)):
        yield piece


# What was carried over is made whole


def _mend(fresh: Connection, secret: bytes | None, *, lost_commits: bool) -> Salvaged:
    """Puts back what other rows tell, and counts. ``lost_commits``: some of the last are not there."""
    secret_lost = False
    with Transaction(fresh):
        if fresh.execute("SELECT 1 FROM meta WHERE key = 'secret'").fetchone() is None:
            secret_lost = secret is None
            secret = secret or os.urandom(SECRET_BYTES)
            fresh.execute("INSERT INTO meta VALUES ('secret', ?)", (secret,))
        for statement in _NOTES:
            fresh.execute(statement)
        rebuilt = _rebuild_scans(fresh)
        fresh.execute(
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM scan WHERE acknowledged_ms IS NOT NULL)"
        )
        if lost_commits:  # each may have gone up in one of them
            fresh.execute("UPDATE outbox SET sending = 1 WHERE parked IS NULL AND lost_ms IS NULL")
    missing, since_ms, until_ms = fresh.execute(_MISSING).fetchone()
    return Salvaged(
        kept=None,
        scans=_count(fresh, "SELECT count(*) FROM scan"),
        waiting=_count(fresh, "SELECT count(*) FROM outbox"),
        rebuilt=rebuilt,
        unsendable=_count(fresh, _UNSENDABLE),
        missing=missing,
        since=None if since_ms is None else _time(since_ms),
        until=None if until_ms is None else _time(until_ms),
        secret_lost=secret_lost,
    )


def _rebuild_scans(fresh: Connection) -> int:
    """Makes a scan for each outbox row whose own is lost, so that it is sent and counts; returns how many.

    Its time is the one frozen for the server, or else that of the scan before it, as a lower bound.
    """
    secrets = Secrets(bytes(fresh.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()[0]))
    orphans = fresh.execute(_ORPHANS).fetchall()
    for kind, seq, barcode_id, message, frozen in orphans:
        code = _code_of(Kind(kind), message)
        admitted, is_exit = code in ADMITTING, code >= _FIRST_EXIT_CODE
        before_ms, running_ms = fresh.execute(_BEFORE, (seq,)).fetchone() or (0, 0)
        wall_ms = before_ms if frozen is None else frozen * 1000
        fresh.execute(
            "INSERT INTO scan (seq, id, service, lane, direction, ticket, admitted, code, reason, origin,"
            " moves, count_before, left_before, boot, monotonic_ms, wall_ms, trust, running_ms, undurable)"
            " VALUES (?, ?, '', '', ?, ?, ?, ?, ?, ?, ?, 0, 1, '', 0, ?, ?, ?, 1)",
            (
                seq,
                uuid7(_time(wall_ms), int.from_bytes(os.urandom(10))).bytes,
                Direction.EXIT if is_exit else Direction.ENTRY,
                secrets.digest(barcode_id),
                admitted,
                code,
                _REASONS[code],
                Origin.LOCAL,
                admitted,
                wall_ms,
                TimeTrust.UNKNOWN if frozen is None else TimeTrust.ESTIMATED,
                running_ms,
            ),
        )
    return len(orphans)


def _code_of(kind: Kind, message: str) -> int:
    """The status code of an outbox row: that of its kind, or the one whose text its message is; else 40."""
    if kind is not Kind.OTHER:
        return 100 if kind is Kind.CHECK_IN else 200
    texts = {code: text.partition("{")[0] for code, text in STATUS_MESSAGES.items()}
    return next((code for code, text in texts.items() if message.startswith(text)), 40)


def _count(connection: Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
