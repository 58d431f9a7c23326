"""The journal: scans, what came of them, commands and alarms; and the outbox of what the server has not got.

Rows are added and completed, never removed; only outbox rows go, wiped, when the server has acknowledged
them. All methods run on the database thread, each write in one transaction.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gated.core.outbox import Kind, Row, stamped
from gated.core.overlay import SETTLING, Movement
from gated.core.scan import Direction, Moment, Scan, TimeTrust
from gated.core.verdict import Origin, Verdict
from gated.store.database import Connection, transaction
from gated.store.privacy import SECRET_BYTES

_SETTLING_MS = SETTLING.total_seconds() * 1000


class Passage(StrEnum):
    """What came of a grant."""

    TAKEN = "taken"
    NOT_TAKEN = "not_taken"  # a sensor that can be trusted saw nobody pass
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """A scan with its verdict, as the journal keeps it."""

    scan: Scan
    service: str
    ticket: bytes | None
    verdict: Verdict
    origin: Origin
    moves: bool
    count_before: int
    left_before: int
    running_ms: int
    acknowledged_ms: int | None = None
    kind: Kind | None = None
    barcode_id: str = ""
    regrants: int | None = None
    """The scan whose lapsed grant this one grants again."""
    undurable: bool = False
    """Acted on before it was on disk."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A scan whose grant lapsed, and when it was admitted, in running milliseconds."""

    seq: int
    running_ms: int


@dataclass(frozen=True, slots=True)
class History:
    """A ticket's unsettled movements, oldest first, and its last lapsed grant that was not granted again."""

    movements: tuple[Movement, ...]
    lapsed: Lapsed | None


NO_HISTORY = History((), None)


@dataclass(frozen=True, slots=True)
class OutboxSize:
    """How many scans wait for the server, and since when the oldest does (Unix ms)."""

    check_ins: int
    others: int
    oldest_ms: int | None


class Journal:
    """The journal's rows."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._changes = connection.total_changes

    def secret(self) -> bytes:
        """This gate's secret; made at the first call."""
        found = self.note("secret")
        if found is None:
            found = os.urandom(SECRET_BYTES)
            self.set_note("secret", found)
        return bytes(found)

    def note(self, key: str) -> Any:
        """A remembered value: int, str or bytes, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and row[0]

    def set_note(self, key: str, value: int | str | bytes) -> None:
        """Remembers a value under a key."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def ran_until_ms(self) -> int:
        """The latest running time that any row speaks of."""
        last = self._db.execute("SELECT running_ms FROM scan ORDER BY seq DESC LIMIT 1").fetchone()
        return max(last[0] if last else 0, self.note("running_ms") or 0)

    def latest_wall_ms(self) -> int:
        """The wall time of the last scan whose time was known: a lower bound of the time now."""
        last = self._db.execute(
            "SELECT wall_ms FROM scan WHERE trust <> 'unknown' ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return last[0] if last else 0

    def history(self, ticket: bytes, asked_ms: int, scanned: bytes | None = None) -> History:
        """What the overlay needs of a ticket whose mirrored row was asked for at ``asked_ms``.

        ``scanned`` is the digest of the text that was scanned, where that is not the barcode_id: a scan from
        before the ticket was mirrored is filed under it.
        """
        movements = []
        lapsed = None
        unsettled = set()
        for seq, way, acknowledged, count, left, wall, lane, passage, regranted, running in self._db.execute(
            "SELECT seq, direction, acknowledged_ms, count_before, left_before, wall_ms, lane, passage,"
            " regranted, running_ms FROM scan WHERE ticket IN (?, ?) AND moves = 1 ORDER BY seq",
            (ticket, scanned),
        ):
            direction = Direction(way)
            waits = direction is Direction.ENTRY and passage == Passage.NOT_TAKEN and not regranted
            lapsed = Lapsed(seq, running) if waits else None
            settled = acknowledged is not None and asked_ms >= acknowledged + _SETTLING_MS
            if settled and direction not in unsettled:
                continue
            unsettled.add(direction)
            movements.append(Movement(direction, acknowledged is not None, count, left, _time(wall), lane))
        return History(tuple(movements), lapsed)

    def write(self, entries: Sequence[Entry]) -> int:
        """Makes scans durable, with their outbox rows, all or none; returns the last one's number."""
        with transaction(self._db):
            for entry in entries:
                seq = self._add(entry)
        return seq

    def _add(self, entry: Entry) -> int:
        scan, verdict = entry.scan, entry.verdict
        seq = self._db.execute(
            "INSERT INTO scan (id, service, lane, direction, ticket, admitted, code, reason, origin, moves,"
            " count_before, left_before, boot, monotonic_ms, wall_ms, trust, running_ms, acknowledged_ms,"
            " undurable) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                scan.id.bytes,
                entry.service,
                scan.lane,
                scan.direction,
                entry.ticket,
                verdict.admitted,
                verdict.code,
                verdict.reason,
                entry.origin,
                entry.moves,
                entry.count_before,
                entry.left_before,
                *_columns(scan.at),
                entry.running_ms,
                entry.acknowledged_ms,
                entry.undurable,
            ),
        ).lastrowid
        assert seq is not None
        if entry.kind is not None:
            self._db.execute(
                "INSERT INTO outbox (kind, seq, barcode_id, status_message) VALUES (?, ?, ?, ?)",
                (entry.kind, seq, entry.barcode_id, verdict.message),
            )
        if entry.regrants is not None:
            self._db.execute("UPDATE scan SET regranted = 1 WHERE seq = ?", (entry.regrants,))
        return seq

    def set_passage(self, seq: int, passage: Passage) -> None:
        """Notes what came of a scan's grant."""
        self._db.execute("UPDATE scan SET passage = ? WHERE seq = ?", (passage, seq))

    def occurred(self, kind: str, lane: str | None, what: str, why: str, at: Moment) -> None:
        """Adds a command, an alarm or a change of mode."""
        self._db.execute(
            "INSERT INTO occurrence (kind, lane, what, why, boot, monotonic_ms, wall_ms, trust)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (kind, lane, what, why, *_columns(at)),
        )

    def freeze(self, service: str, limit: int, at: Moment) -> tuple[Row, ...]:
        """The next rows to send, check-ins alone first, each frozen with the time it will always have.

        While the time is unknown, scans that were stamped in the unknown wait.
        """
        chosen = self._db.execute(
            "SELECT o.kind, o.seq, o.barcode_id, s.code, o.status_message, o.checked_in_time,"
            "       s.boot, s.monotonic_ms, s.wall_ms, s.trust"
            " FROM outbox o JOIN scan s USING (seq)"
            " WHERE s.service = ? AND (o.checked_in_time IS NOT NULL OR s.trust <> 'unknown' OR ?)"
            " ORDER BY o.kind, o.seq LIMIT ?",
            (service, at.trust is not TimeTrust.UNKNOWN, limit),
        ).fetchall()
        rows = tuple(
            Row(
                seq,
                Kind(kind),
                barcode_id,
                _unix(stamped(_moment(*stamp), at)) if time is None else time,
                code,
                message,
            )
            for kind, seq, barcode_id, code, message, time, *stamp in chosen
            if kind == chosen[0][0]
        )
        with transaction(self._db):
            self._db.executemany(
                "UPDATE outbox SET checked_in_time = ?, sent = sent + 1 WHERE kind = ? AND seq = ?",
                [(row.checked_in_time, row.kind, row.seq) for row in rows],
            )
        return rows

    def acknowledge(self, rows: Sequence[Row], running_ms: int) -> None:
        """Notes that the server has these rows, and wipes their barcodes."""
        with transaction(self._db):
            self._db.executemany(
                "DELETE FROM outbox WHERE kind = ? AND seq = ?", [(row.kind, row.seq) for row in rows]
            )
            self._db.executemany(
                "UPDATE scan SET acknowledged_ms = ? WHERE seq = ?", [(running_ms, row.seq) for row in rows]
            )
            self.set_note("running_ms", running_ms)

    def acknowledge_one(self, seq: int, running_ms: int) -> None:
        """Notes that the server has one scan, whichever way it got there."""
        with transaction(self._db):
            self._db.executemany(
                "DELETE FROM outbox WHERE kind = ? AND seq = ?", [(kind, seq) for kind in Kind]
            )
            self._db.execute("UPDATE scan SET acknowledged_ms = ? WHERE seq = ?", (running_ms, seq))
            self.set_note("running_ms", running_ms)

    def outbox_size(self) -> OutboxSize:
        """How much waits for the server."""
        check_ins, others, oldest = self._db.execute(
            "SELECT coalesce(sum(kind = 0), 0), coalesce(sum(kind <> 0), 0), min(seq) FROM outbox"
        ).fetchone()
        if oldest is None:
            return OutboxSize(0, 0, None)
        since = self._db.execute("SELECT wall_ms FROM scan WHERE seq = ?", (oldest,)).fetchone()
        return OutboxSize(check_ins, others, since and since[0])

    def checkpoint(self, running_ms: int) -> None:
        """Moves what the WAL holds into the file, wipes it there, and notes the running time.

        The note comes last because the first commit to an empty WAL costs one sync more: no scan pays for it.
        """
        if self._db.total_changes == self._changes:
            return
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.set_note("running_ms", running_ms)
        self._changes = self._db.total_changes

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def _columns(at: Moment) -> tuple[str, int, int, str]:
    return at.boot, int(at.monotonic * 1000), int(at.wall.timestamp() * 1000), at.trust


def _moment(boot: str, monotonic_ms: int, wall_ms: int, trust: str) -> Moment:
    return Moment(_time(wall_ms), TimeTrust(trust), monotonic_ms / 1000, boot)


def _unix(time: datetime) -> int:
    return int(time.timestamp())


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
