"""The mirror: the tickets of one service, as downloads brought them. Downloads alone write it.

It is bound to one service and one gate's secret; under another of either it empties itself. All methods run
on the database thread.

What looks at every ticket looks at one span of digests at a time, so that a scan never waits for all of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gated.core.outbox import Shown
from gated.core.ticket import Ticket
from gated.store.database import Connection, transaction
from gated.store.privacy import Secrets

# Rows that a purge wipes in one piece: a scan waits for no more than that.
_WIPED = 200
Span = tuple[bytes, bytes]
# All digests (16 bytes), as 256 spans.
SPANS: tuple[Span, ...] = tuple((bytes([first]), bytes([first]) + b"\xff" * 16) for first in range(256))

_COLUMNS = (
    "external, type_id, type_name, subtitle, section, row, seat, allowed, canceled, expire_from, valid_from,"
    " valid_till, max_checkins, remaining, checked_in, last_in, last_out, unreadable"
)
_UPSERT = f"""
    INSERT INTO ticket (digest, {_COLUMNS}, asked_ms, run, absent)
    VALUES (?, {", ".join("?" * 18)}, ?, ?, 0)
    ON CONFLICT (digest) DO UPDATE SET
        ({_COLUMNS}, asked_ms, run, absent) =
        ({", ".join("excluded." + name.strip() for name in _COLUMNS.split(","))}, excluded.asked_ms,
         max(excluded.run, run), 0)
"""
# A row that can't be read leaves an older readable one as it was, and proves that the ticket is still there.
_SEEN = "UPDATE ticket SET run = max(?, run), absent = 0 WHERE digest = ? AND unreadable = ''"


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


class Mirror:
    """The mirror's rows."""

    def __init__(self, connection: Connection, secrets: Secrets) -> None:
        self._db = connection
        self._secrets = secrets
        if self.note("secrets") != secrets.fingerprint:
            self.empty()

    def bind(self, service: str) -> None:
        """Makes this the mirror of ``service``; what it held of another is thrown away."""
        if self.note("service") != service:
            self.empty()
            self.set_note("service", service)

    def empty(self) -> None:
        """Forgets all tickets and all notes."""
        with transaction(self._db):
            for table in ("ticket", "external", "meta"):
                self._db.execute(f"DELETE FROM {table}")
            self.set_note("secrets", self._secrets.fingerprint)

    def note(self, key: str) -> Any:
        """A remembered value: int, str or bytes, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and row[0]

    def set_note(self, key: str, value: int | str | bytes | None) -> None:
        """Remembers a value under a key."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def set_notes(self, notes: Mapping[str, int | str | None]) -> None:
        """Remembers several values, all or none."""
        with transaction(self._db):
            for key, value in notes.items():
                self.set_note(key, value)

    def ran_until_ms(self) -> int:
        """The latest running time that a row or a note speaks of."""
        return max(self.note("running_ms") or 0, self.note("types_ms") or 0)

    def find(self, barcode: str) -> Found | Ambiguous | None:
        """The ticket that a text stands for: by ``barcode_id``, then by ``external_barcode_id``."""
        digest = self._secrets.digest(barcode)
        found = self._read(barcode, digest)
        for ticket, sealed in self._db.execute(
            "SELECT ticket, sealed FROM external JOIN ticket ON ticket.digest = external.ticket"
            " WHERE external.digest = ? AND ticket.external = external.digest AND absent = 0",
            (digest,),
        ).fetchall():
            barcode_id = self._secrets.unseal(sealed, barcode)
            other = self._read(barcode_id, ticket) if barcode_id is not None else None
            if other is None:
                continue
            if found is not None:
                return Ambiguous()
            found = other
        return found

    def shown(self, ticket: bytes) -> Shown | None:
        """What the mirror shows of a ticket's check-ins, by its digest; None where it has no such ticket."""
        row = self._db.execute(
            "SELECT last_in, last_out, max_checkins, coalesce(remaining, 0) + checked_in FROM ticket"
            " WHERE digest = ? AND absent = 0",
            (ticket,),
        ).fetchone()
        return row and Shown(row[0], row[1], max(row[2] or 0, row[3]))

    def digest(self, barcode_id: str) -> bytes:
        """The key under which a barcode_id is known, here and in the journal."""
        return self._secrets.digest(barcode_id)

    def put(self, tickets: Iterable[Ticket], *, asked_ms: int, run: int) -> None:
        """Writes rows of a download in one transaction. ``run`` is 0 for a delta."""
        with transaction(self._db):
            for ticket in tickets:
                self._put(ticket, asked_ms, run)
            self.set_note("running_ms", max(asked_ms, self.ran_until_ms()))

    def seen(self, run: int, span: Span) -> int:
        """How many tickets of a span the full download ``run`` has seen."""
        query = "SELECT count(*) FROM ticket WHERE digest BETWEEN ? AND ? AND run = ?"
        return int(self._db.execute(query, (*span, run)).fetchone()[0])

    def unseen(self, run: int, span: Span) -> int:
        """How many present tickets of a span the full download ``run`` has not seen."""
        query = "SELECT count(*) FROM ticket WHERE digest BETWEEN ? AND ? AND run < ? AND absent = 0"
        return int(self._db.execute(query, (*span, run)).fetchone()[0])

    def sweep(self, run: int, span: Span) -> None:
        """Marks the tickets of a span that the full download ``run`` did not see as absent."""
        query = "UPDATE ticket SET absent = 1 WHERE digest BETWEEN ? AND ? AND run < ? AND absent = 0"
        self._db.execute(query, (*span, run))

    def count(self, span: Span) -> int:
        """Tickets present in a span."""
        query = "SELECT count(*) FROM ticket WHERE digest BETWEEN ? AND ? AND absent = 0"
        return int(self._db.execute(query, span).fetchone()[0])

    def checkpoint(self) -> None:
        """Moves what the WAL holds into the file; waits for nobody."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # For people

    def look(self, digest: bytes) -> Looked | None:
        """A row by its ticket's digest, which does not tell the barcode_id; also one that is absent."""
        row = self._db.execute(
            f"SELECT {_COLUMNS}, asked_ms, absent FROM ticket WHERE digest = ?",
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

    def renew(self, secrets: Secrets) -> None:
        """From now on goes by another secret: no row is found any more."""
        self._secrets = secrets

    def wipe_piece(self) -> bool:
        """Wipes some rows; False once there are none."""
        return any(
            self._db.execute(
                f"DELETE FROM {table} WHERE digest IN (SELECT digest FROM {table} LIMIT ?)",
                (_WIPED,),
            ).rowcount
            for table in ("ticket", "external")
        )

    def compact(self) -> None:
        """Gives back the room of wiped rows, in the file and in its WAL."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read(self, barcode_id: str, digest: bytes) -> Found | None:
        row = self._db.execute(
            f"SELECT {_COLUMNS}, asked_ms FROM ticket WHERE digest = ? AND absent = 0",
            (digest,),
        ).fetchone()
        return row and Found(_ticket(barcode_id, row), digest, row[-1])

    def _put(self, ticket: Ticket, asked_ms: int, run: int) -> None:
        digest = self._secrets.digest(ticket.barcode_id)
        if ticket.unreadable and self._db.execute(_SEEN, (run, digest)).rowcount:
            return
        external = self._sealed(ticket, digest)
        self._db.execute(_UPSERT, (digest, external, *_row(ticket), asked_ms, run))

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
        _seconds(ticket.expire_from),
        _seconds(ticket.valid_from),
        _seconds(ticket.valid_till),
        ticket.max_checkins,
        ticket.remaining,
        ticket.checked_in,
        _seconds(ticket.last_checked_in),
        _seconds(ticket.last_checked_out),
        ticket.unreadable,
    )


def _ticket(barcode_id: str, row: tuple[Any, ...]) -> Ticket:
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
        expire_from=_time(expire_from),
        valid_from=_time(valid_from),
        valid_till=_time(valid_till),
        max_checkins=max_checkins,
        remaining=remaining,
        checked_in=checked_in,
        last_checked_in=_time(last_in),
        last_checked_out=_time(last_out),
        unreadable=unreadable,
    )


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
