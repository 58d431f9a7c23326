"""The mirror: the tickets of one service, as downloads brought them. Downloads alone write it.

It is bound to one service and one gate's secret; under another of either it empties itself. It keeps a copy
of the secret, for a journal that loses its own. All methods run on the database thread, but for
:meth:`Mirror.checkpoint`.

What looks at every ticket looks at one span of rows at a time, so that a scan never waits for all of them.
New rows are found by a table in memory until their digests are put in place, many at once; what that table
held is read from the rows again at the next start.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from gated.core.outbox import Shown
from gated.core.ticket import Ticket
from gated.errors import StoreError
from gated.store.database import Connection, Transaction, damaged
from gated.store.privacy import Secrets

# Rows that a purge wipes in one piece: a scan waits for no more than that.
_WIPED = 200
# Rows of a span: looked at in about a millisecond on a PC.
_SPAN = 4096
# New rows that are found by memory (about 1 MB) before they are put in place, so many of them in one piece. A
# million places fill some 6400 pages: a piece writes a hundred of them.
_CROWD, _PLACED = 32_768, 512
P = ParamSpec("P")
R = TypeVar("R")
# Rows written until the WAL is due to be moved, some 200 pages: fewer cost more syncs, with more a scan may
# have to wait longer.
_UNFILED = 1000
Span = tuple[int, int]
"""The first and the last number of some rows."""

_COLUMNS = (
    "external, type_id, type_name, subtitle, section, row, seat, allowed, canceled, expire_from, valid_from,"
    " valid_till, max_checkins, remaining, checked_in, last_in, last_out, unreadable"
)


def _number(digest: str) -> str:
    """The number of the row of a digest, null if there is none."""
    found = (f"(SELECT number FROM {table} WHERE digest = {digest})" for table in ("recent", "place"))
    return f"coalesce({', '.join(found)})"


# By barcode_id, where nothing is sealed; then by external id.
_FIND = f"""
    SELECT digest, NULL, {_COLUMNS}, asked_ms FROM ticket WHERE number = {_number("?1")} AND absent = 0
    UNION ALL
    SELECT ticket.digest, sealed, {_COLUMNS}, asked_ms
    FROM external JOIN ticket ON ticket.number = {_number("external.ticket")}
    WHERE external.digest = ?1 AND ticket.external = external.digest AND absent = 0
"""
# A row that can't be read leaves an older readable one as it was, and proves that the ticket is still there.
_SEEN = f"UPDATE ticket SET run = max(?2, run), absent = 0 WHERE number = {_number('?1')} AND unreadable = ''"


# Rows that are written by one statement: each costs Python's lock, which SQLite gives back while it works.
_TOGETHER = 25


@cache
def _upsert(rows: int) -> str:
    """Writes so many rows. It takes ``asked_ms`` and ``run``, then digest, batch and columns of each."""
    values = 2 + len(_COLUMNS.split(","))
    row = f"({', '.join('?' * values)})"
    return f"""
        INSERT INTO ticket (number, digest, batch, {_COLUMNS}, asked_ms, run, absent)
        SELECT {_number("column1")}, {", ".join(f"column{place + 1}" for place in range(values))}, ?1, ?2, 0
        FROM (VALUES {", ".join([row] * rows)}) WHERE true
        ON CONFLICT (number) DO UPDATE SET
            (batch, {_COLUMNS}, asked_ms, run, absent) =
            (excluded.batch, {", ".join("excluded." + name.strip() for name in _COLUMNS.split(","))},
             excluded.asked_ms, max(excluded.run, run), 0)
    """


# Shorter than a ticket's digest, so that none is taken for the other.
_BATCH_BYTES = 8
_RECALL = (
    "INSERT INTO recent SELECT digest, number FROM ticket WHERE number > ?",
    "INSERT OR IGNORE INTO recent SELECT batch, 0 FROM ticket WHERE number > ? AND batch IS NOT NULL",
)


@dataclass(frozen=True, slots=True)
class Found:
    """A ticket of the mirror, its digest, and the running time at which its download was asked for."""

    ticket: Ticket
    digest: bytes
    asked_ms: int


@dataclass(frozen=True, slots=True)
class Looked:
    """A row for people: its ticket without the barcode_id, and the digest of its external id."""

    ticket: Ticket
    digest: bytes
    external: bytes | None
    asked_ms: int
    absent: bool


class Ambiguous:
    """Two tickets stand for one text."""


class MirrorDamaged(StoreError):
    """The mirror's file is damaged. Downloads bring its tickets back: it can be begun anew."""


def _never() -> bool:
    return False


def _tells_damage(method: Callable[P, R]) -> Callable[P, R]:
    @wraps(method)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return method(*arguments, **named)
        except sqlite3.DatabaseError as error:
            if damaged(error):
                raise MirrorDamaged(f"mirror: {error}") from error
            raise

    return guarded


def _all_tell_damage(mirror: type["Mirror"]) -> type["Mirror"]:
    """Makes each public method raise MirrorDamaged: an error of sqlite3 does not say which file that is."""
    for name, method in list(vars(mirror).items()):
        if not name.startswith("_") and name != "digest" and callable(method):  # which reads no file
            setattr(mirror, name, _tells_damage(method))
    return mirror


@_all_tell_damage
class Mirror:
    """The mirror's rows."""

    def __init__(self, connection: Connection, filing: Connection, secrets: Secrets) -> None:
        """``filing`` is a second connection to the same file, for :meth:`checkpoint`."""
        self._secrets = secrets
        self.go_on(connection, filing)
        self.claim()

    def go_on(self, connection: Connection, filing: Connection) -> None:
        """Goes on with another file, to be claimed unless somebody else writes it."""
        self._db, self._filing = connection, filing
        self._recent = self._unfiled = 0
        self._noted_ms = -1  # when the rows were asked for that were written last
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("CREATE TEMP TABLE recent (digest BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")

    def claim(self) -> None:
        """Empties itself unless it was filled under this gate's secret."""
        if self.note("secret") != self._secrets.secret:
            self.empty()
        self._recent += self._recall(self.note("placed") or 0)

    def bind(self, service: str) -> None:
        """Makes this the mirror of ``service``; what it held of another is thrown away."""
        if self.note("service") != service:
            self.empty()
            self.set_note("service", service)

    def empty(self) -> None:
        """Forgets all tickets and all notes."""
        with Transaction(self._db):
            for table in ("ticket", "recent", "place", "external", "meta"):
                self._db.execute(f"DELETE FROM {table}")
            self.set_note("secret", self._secrets.secret)
        self._recent, self._noted_ms = 0, -1

    def note(self, key: str) -> Any:
        """A remembered value: int, str or bytes, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and row[0]

    def set_note(self, key: str, value: int | str | bytes | None) -> None:
        """Remembers a value under a key."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def set_notes(self, notes: Mapping[str, int | str | None]) -> None:
        """Remembers several values, all or none."""
        with Transaction(self._db):
            for key, value in notes.items():
                self.set_note(key, value)

    def ran_until_ms(self) -> int:
        """The latest running time that a row or a note speaks of."""
        return max(self.note("running_ms") or 0, self.note("types_ms") or 0)

    def find(self, barcode: str, scanned: bytes) -> Found | Ambiguous | None:
        """The ticket that a text stands for: by ``barcode_id``, then by ``external_barcode_id``.

        ``scanned`` is the text's digest.
        """
        found = None
        for digest, sealed, *row in self._db.execute(_FIND, (scanned,)).fetchall():
            barcode_id = barcode if sealed is None else self._secrets.unseal(sealed, barcode)
            if barcode_id is None:
                continue
            if found is not None:
                return Ambiguous()
            found = Found(_ticket(barcode_id, row), digest, row[-1])
        return found

    def is_order(self, text: str) -> bool:
        """Whether a text is the number of an order of this service."""
        key = self._secrets.digest(text)[:_BATCH_BYTES]
        return self._db.execute(f"SELECT {_number('?1')}", (key,)).fetchone()[0] is not None

    def shown(self, ticket: bytes) -> Shown | None:
        """What the mirror shows of a ticket's check-ins, by its digest; None where it has no such ticket."""
        row = self._db.execute(
            "SELECT last_in, last_out, max_checkins, coalesce(remaining, 0) + checked_in FROM ticket"
            f" WHERE number = {_number('?1')} AND absent = 0",
            (ticket,),
        ).fetchone()
        return row and Shown(row[0], row[1], max(row[2] or 0, row[3]))

    def digest(self, barcode_id: str) -> bytes:
        """The key under which a barcode_id is known, here and in the journal."""
        return self._secrets.digest(barcode_id)

    def put(
        self, tickets: Sequence[Ticket], *, asked_ms: int, run: int, halt: Callable[[], bool] = _never
    ) -> int:
        """Writes rows of a download in one transaction; returns how many, from the first, and at least one.

        It ends early where ``halt``, asked between a few rows and the next, says so; and before a row of the
        same ticket as one that it has written. ``halt`` may look tickets up: it finds those that were there,
        as they are now. ``run`` is 0 for a delta.
        """
        done, written = 0, set[bytes]()
        with Transaction(self._db):
            last = self._last()
            while done < len(tickets) and not (done and halt()):
                some = tickets[done : done + _TOGETHER]
                rows = self._rows(some)
                if not written.isdisjoint(rows):  # which are found once they are recalled
                    break
                written.update(rows)
                done += len(some)
                self._write(rows, asked_ms, run)
            new = self._recall(last)
            if asked_ms != self._noted_ms:  # all rows of a page were asked for at once
                self.set_note("running_ms", max(asked_ms, self.ran_until_ms()))
        self._noted_ms = asked_ms
        self._recent += new
        self._unfiled += len(written)
        return done

    def _write(self, rows: dict[bytes, Ticket], asked_ms: int, run: int) -> None:
        for digest in [digest for digest, ticket in rows.items() if ticket.unreadable]:
            if self._db.execute(_SEEN, (digest, run)).rowcount:
                del rows[digest]
        values = [
            (digest, self._batch(ticket), self._sealed(ticket, digest), *_row(ticket))
            for digest, ticket in rows.items()
        ]
        if values:
            self._db.execute(_upsert(len(values)), (asked_ms, run, *chain.from_iterable(values)))

    @property
    def crowded(self) -> bool:
        """Whether so many rows are new that they are to be put in place."""
        return self._recent >= _CROWD

    def place_piece(self) -> bool:
        """Puts some new rows in place; False once there are none."""
        piece = f"FROM recent ORDER BY digest LIMIT {_PLACED}"
        with Transaction(self._db):
            # After a power cut in the midst of this some are there already.
            self._db.execute(f"INSERT OR IGNORE INTO place SELECT digest, number {piece}")
            done = self._db.execute(f"DELETE FROM recent WHERE digest IN (SELECT digest {piece})").rowcount
            if done == self._recent:
                self.set_note("placed", self._last())
        self._recent -= done
        self._unfiled += done
        return bool(self._recent)

    def spans(self) -> tuple[Span, ...]:
        """All rows there are now, in spans."""
        return tuple((first, first + _SPAN - 1) for first in range(1, self._last() + 1, _SPAN))

    def seen(self, run: int, span: Span) -> int:
        """How many tickets of a span the full download ``run`` has seen."""
        query = "SELECT count(*) FROM ticket WHERE number BETWEEN ? AND ? AND run = ?"
        return int(self._db.execute(query, (*span, run)).fetchone()[0])

    def unseen(self, run: int, span: Span) -> int:
        """How many present tickets of a span the full download ``run`` has not seen."""
        query = "SELECT count(*) FROM ticket WHERE number BETWEEN ? AND ? AND run < ? AND absent = 0"
        return int(self._db.execute(query, (*span, run)).fetchone()[0])

    def sweep(self, run: int, span: Span) -> None:
        """Marks the tickets of a span that the full download ``run`` did not see as absent."""
        query = "UPDATE ticket SET absent = 1 WHERE number BETWEEN ? AND ? AND run < ? AND absent = 0"
        self._db.execute(query, (*span, run))

    def count(self, span: Span) -> int:
        """Tickets present in a span."""
        query = "SELECT count(*) FROM ticket WHERE number BETWEEN ? AND ? AND absent = 0"
        return int(self._db.execute(query, span).fetchone()[0])

    @property
    def checkpoint_due(self) -> bool:
        """Whether the WAL holds much."""
        return self._unfiled >= _UNFILED

    def checkpoint(self) -> None:
        """Moves what the WAL holds into the file: on any thread while nobody writes. Waits for no lock."""
        self._filing.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._unfiled = 0

    # For people

    def look(self, digest: bytes) -> Looked | None:
        """A row by its ticket's digest, which does not tell the barcode_id; also one that is absent."""
        row = self._db.execute(
            f"SELECT {_COLUMNS}, asked_ms, absent FROM ticket WHERE number = {_number('?1')}",
            (digest,),
        ).fetchone()
        return row and Looked(_ticket("", row), digest, row[0], row[-2], bool(row[-1]))

    def known_as(self, digest: bytes) -> tuple[bytes, ...]:
        """Digests of the tickets that ever had the external id of this digest."""
        found = self._db.execute("SELECT ticket FROM external WHERE digest = ?", (digest,))
        return tuple(ticket for (ticket,) in found)

    # Purge: forget, then wipe piece by piece, then compact

    def forget(self) -> None:
        """Forgets all notes: what rows there are count no more, and a restart empties this mirror."""
        self._db.execute("DELETE FROM meta")
        self._noted_ms = -1

    def renew(self, secrets: Secrets) -> None:
        """From now on goes by another secret: no row is found any more."""
        self._secrets = secrets

    def wipe_piece(self) -> bool:
        """Wipes some rows; False once there are none."""
        return any(
            self._db.execute(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} LIMIT ?)",
                (_WIPED,),
            ).rowcount
            for table, key in (("ticket", "number"), ("place", "digest"), ("external", "digest"))
        )

    def compact(self) -> None:
        """Gives back the room of wiped rows, in the file and in its WAL."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _rows(self, tickets: Sequence[Ticket]) -> dict[bytes, Ticket]:
        """One row a ticket, by its digest: the last, but for one that can't be read."""
        rows: dict[bytes, Ticket] = {}
        for ticket in tickets:
            digest = self._secrets.digest(ticket.barcode_id)
            if not ticket.unreadable or digest not in rows:
                rows[digest] = ticket
        return rows

    def _last(self) -> int:
        """The number of the last row; rows are never taken out but all together."""
        return self._db.execute("SELECT max(number) FROM ticket").fetchone()[0] or 0

    def _recall(self, after: int) -> int:
        """Has the rows of the numbers after this one found by memory, and their orders; returns how many."""
        return sum(self._db.execute(query, (after,)).rowcount for query in _RECALL)

    def _batch(self, ticket: Ticket) -> bytes | None:
        return self._secrets.digest(ticket.batch_id)[:_BATCH_BYTES] if ticket.batch_id else None

    def _sealed(self, ticket: Ticket, digest: bytes) -> bytes | None:
        """The digest of the ticket's external id, under which its barcode_id is sealed; None without one."""
        external_id = ticket.external_barcode_id
        if not external_id or external_id == ticket.barcode_id:
            return None
        external = self._secrets.digest(external_id)
        query = "SELECT 1 FROM external WHERE digest = ? AND ticket = ?"
        if self._db.execute(query, (external, digest)).fetchone() is None:
            sealed = self._secrets.seal(ticket.barcode_id, external_id)
            self._db.execute("INSERT INTO external VALUES (?, ?, ?)", (external, digest, sealed))
        return external


class MirrorBeside(Mirror):
    """The mirror, read through a connection beside the one that writes it."""

    def __init__(self, connection: Connection, secrets: Secrets) -> None:
        self._secrets = secrets
        self.read_on(connection)

    def read_on(self, connection: Connection) -> None:
        """Goes on with another file."""
        self.go_on(connection, connection)
        self._recalled = -1

    def find(self, barcode: str, scanned: bytes) -> Found | Ambiguous | None:
        """As :meth:`Mirror.find`; new rows are recalled first, if there are any."""
        changes = self._db.execute("PRAGMA data_version").fetchone()[0]  # by whoever writes
        if changes != self._recalled:
            self._db.execute("DELETE FROM recent")
            self._recall(self.note("placed") or 0)
            self._recalled = changes
        return super().find(barcode, scanned)


def _row(ticket: Ticket) -> tuple[int | str | None, ...]:
    return (
        ticket.type_id,
        ticket.type_name,
        ticket.subtitle,
        ticket.section,
        ticket.row,
        ticket.seat,
        ticket.checkin_allowed,
        ticket.canceled,
        None if ticket.expire_from is None else _seconds(ticket.expire_from),
        None if ticket.valid_from is None else _seconds(ticket.valid_from),
        None if ticket.valid_till is None else _seconds(ticket.valid_till),
        ticket.max_checkins,
        ticket.remaining,
        ticket.checked_in,
        None if ticket.last_checked_in is None else _seconds(ticket.last_checked_in),
        None if ticket.last_checked_out is None else _seconds(ticket.last_checked_out),
        ticket.unreadable,
    )


def _ticket(barcode_id: str, row: Sequence[Any]) -> Ticket:
    _, type_id, type_name, subtitle, section, seat_row, seat, allowed, canceled, *rest = row
    (
        expire_from,
        valid_from,
        valid_till,
        max_checkins,
        remaining,
        checked_in,
        last_in,
        last_out,
        unreadable,
    ) = rest[:9]
    return Ticket(
        barcode_id=barcode_id,
        type_id=type_id,
        type_name=type_name,
        subtitle=subtitle,
        section=section,
        row=seat_row,
        seat=seat,
        checkin_allowed=bool(allowed),
        canceled=bool(canceled),
        expire_from=None if expire_from is None else _time(expire_from),
        valid_from=None if valid_from is None else _time(valid_from),
        valid_till=None if valid_till is None else _time(valid_till),
        max_checkins=max_checkins,
        remaining=remaining,
        checked_in=checked_in,
        last_checked_in=None if last_in is None else _time(last_in),
        last_checked_out=None if last_out is None else _time(last_out),
        unreadable=unreadable,
    )


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
