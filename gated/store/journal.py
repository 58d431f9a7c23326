"""The journal: scans, what came of them, commands and alarms.

Rows are added and completed, and removed by a purge alone. A scan's outbox row is written with it
(gated/store/outbox.py). All methods run on the database thread, each write in one transaction.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from gated.core.outbox import Kind, Window
from gated.core.overlay import SETTLING, Movement
from gated.core.scan import Direction, Moment, Scan, ScanId, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict, deny
from gated.store.database import Connection, Transaction
from gated.store.privacy import SECRET_BYTES

_SETTLING_MS = SETTLING.total_seconds() * 1000
# Rows that a purge wipes in one piece: a scan waits for no more than that.
_WIPED = 200

# The WAL's length at first, in pages: room for what four lanes write until the next checkpoint (20 s, a scan
# and its passage every two seconds, six pages). A busier gate's becomes longer; beyond the longest it is cut.
_ROOM, _LONGEST = 256, 512
# Pages that a cache of one keeps all the same.
_STAY_IN_CACHE = 4

_HISTORY_OF_TWO = (
    "SELECT seq, direction, acknowledged_ms, count_before, left_before, wall_ms, lane, passage, regranted,"
    " running_ms FROM scan WHERE ticket IN (?, ?) AND moves = 1 ORDER BY seq"
)
_HISTORY = _HISTORY_OF_TWO.replace("IN (?, ?)", "= ?")  # needs no sorting, which a scan would wait for
_LOST_CALL = """
    SELECT c.seq FROM scan c
    WHERE c.ticket IN (?, ?) AND c.call_from IS NOT NULL AND c.direction = 'entry' AND c.admitted = 0
      AND ? BETWEEN c.call_from AND c.call_to
      AND NOT EXISTS (SELECT 1 FROM scan own WHERE own.ticket IN (?, ?)
        AND own.moves = 1 AND own.direction = 'entry'
        AND own.running_ms >= c.running_ms - 1000 * (c.call_to - c.call_from))
      AND c.running_ms >= ? ORDER BY c.seq DESC LIMIT 1
"""


class Passage(StrEnum):
    """What came of a grant."""

    TAKEN = "taken"
    NOT_TAKEN = "not_taken"  # a sensor that can be trusted saw nobody pass
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What is known of a scan that went out before it was on disk. ``time`` is what the server was told."""

    time: int  # Unix seconds, UTC
    sending: bool = False
    lost_ms: int | None = None
    parked: str | None = None

    @property
    def settled(self) -> bool:
        """Whether it is not to go out again as things are."""
        return self.sending or self.lost_ms is not None or self.parked is not None


class Entry(NamedTuple):
    """A scan with its verdict, as the journal keeps it.

    A named tuple, since a scan waits until it is made: in a third of a frozen dataclass's time.
    """

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
    redeems: int | None = None
    """The scan whose guest did not get in, and gets in with this one: a lapsed grant, a lost call."""
    undurable: bool = False
    """Acted on before it was on disk."""
    call: Window | None = None
    """When the server may have carried out a call about this scan whose answer was lost."""
    dispatch: Dispatch | None = None


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


@dataclass(frozen=True, slots=True)
class Overused:
    """A ticket that was checked in more often than it allows, by its digest, and how often.

    ``external`` is the digest of its external id: a scan from before the ticket was mirrored is filed under
    it.
    """

    ticket: bytes
    external: bytes
    count: int


class Journal:
    """The journal's rows."""

    def __init__(self, connection: Connection) -> None:
        self.go_on(connection)

    def go_on(self, connection: Connection) -> None:
        """Goes on with another connection: that of a journal that was salvaged."""
        self._db = connection
        self._changes = -1  # none has been counted: the first checkpoint is always made
        self._has_room = False  # what the WAL has of an earlier start is not known

    def secret(self, known: bytes | None = None) -> bytes:
        """This gate's secret. Where there is none yet it is the one that is known, or made."""
        found = self.note("secret")
        if found is None:
            found = known or os.urandom(SECRET_BYTES)
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

    def latest_time(self) -> tuple[int, int]:
        """Wall and running time of the last scan whose time was known: a lower bound goes by them."""
        last = self._db.execute(
            "SELECT wall_ms, running_ms FROM scan WHERE trust <> 'unknown' ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return last or (0, 0)

    def latest_wall_ms(self) -> int:
        """The wall time of the last scan whose time was known: a lower bound of the time now."""
        return self.latest_time()[0]

    def history(self, ticket: bytes, asked_ms: int, scanned: bytes | None = None) -> History:
        """What the overlay needs of a ticket whose mirrored row was asked for at ``asked_ms``.

        ``scanned`` is the digest of the text that was scanned, where that is not the barcode_id: a scan from
        before the ticket was mirrored is filed under it.
        """
        movements = []
        lapsed = None
        unsettled = set()
        alone = scanned is None or scanned == ticket
        for seq, way, acknowledged, count, left, wall, lane, passage, regranted, running in self._db.execute(
            _HISTORY if alone else _HISTORY_OF_TWO, (ticket,) if alone else (ticket, scanned)
        ):
            direction = Direction(way)
            waits = direction is Direction.ENTRY and passage == Passage.NOT_TAKEN and not regranted
            lapsed = Lapsed(seq, running) if waits else None
            settled = acknowledged is not None and asked_ms >= acknowledged + _SETTLING_MS
            if settled and direction not in unsettled:
                continue
            unsettled.add(direction)
            newer = acknowledged is not None and acknowledged > asked_ms
            movement = Movement(direction, acknowledged is not None, count, left, _time(wall), lane, newer)
            movements.append(movement)
        return History(tuple(movements), lapsed)

    def lost_call(self, tickets: Sequence[bytes], since_ms: int, time: int) -> int | None:
        """The last check-in whose answer was lost and whose guest did not get in, made at that Unix time.

        ``tickets`` are the digests of its barcode_id and of the text that was scanned. One that was admitted
        here since, or so shortly before that the server's time may be of that, has no such guest.
        """
        both = (tickets[0], tickets[-1])
        row = self._db.execute(_LOST_CALL, (*both, time, *both, since_ms)).fetchone()
        return row and int(row[0])

    def report_doubles(
        self, over: Sequence[Overused], reset: Collection[bytes]
    ) -> tuple[tuple[datetime, ...], ...]:
        """When this gate admitted each of these tickets, which were checked in too often.

        Empty for one that it did not admit, or whose count was reported before; it counts as reported then.
        The organiser has ``reset`` the tickets of those digests: checked in too often again, they are
        reported again. Nothing is begun to be written where there is nothing to report.
        """
        found = [self._entries(each) for each in over]
        if not any(found) and not reset:
            return tuple(found)
        with Transaction(self._db):
            self._db.executemany("DELETE FROM double_entry WHERE ticket = ?", [(each,) for each in reset])
            new = [bool(times) and self._report(each) for each, times in zip(over, found, strict=True)]
        return tuple(times if is_new else () for times, is_new in zip(found, new, strict=True))

    def _entries(self, overused: Overused) -> tuple[datetime, ...]:
        query = (
            "SELECT wall_ms FROM scan WHERE ticket IN (?, ?) AND moves = 1 AND direction = 'entry'"
            " ORDER BY seq"
        )
        found = self._db.execute(query, (overused.ticket, overused.external))
        return tuple(_time(wall) for (wall,) in found)

    def _report(self, overused: Overused) -> bool:
        query = (
            "INSERT INTO double_entry VALUES (?, ?) ON CONFLICT (ticket) DO UPDATE SET count = excluded.count"
            " WHERE excluded.count > count"
        )
        return bool(self._db.execute(query, (overused.ticket, overused.count)).rowcount)

    def doubles_told(self) -> frozenset[bytes]:
        """Digests of the tickets that were reported as checked in too often."""
        return frozenset(ticket for (ticket,) in self._db.execute("SELECT ticket FROM double_entry"))

    def has(self, entry: Entry) -> bool:
        """Whether a scan that moved its ticket is on disk."""
        query = "SELECT EXISTS (SELECT 1 FROM scan WHERE ticket = ? AND moves = 1 AND id = ?)"
        return bool(self._db.execute(query, (entry.ticket, entry.scan.id.bytes)).fetchone()[0])

    def number_of(self, scan: ScanId) -> int | None:
        """The number of a scan, found by looking from the newest back; None if it is not here."""
        query = "SELECT seq FROM scan WHERE id = ? ORDER BY seq DESC LIMIT 1"
        row = self._db.execute(query, (scan.bytes,)).fetchone()
        return row and int(row[0])

    def refuse(self, seq: int, redeems: int | None) -> None:
        """Notes that an admission came to nothing: it took so long to be written that its guest was denied.

        ``redeems`` is the scan that it redeemed, which waits again for its guest.
        """
        with Transaction(self._db):
            self._db.execute(
                "UPDATE scan SET admitted = 0, code = NULL, reason = ?, moves = 0, undurable = 1"
                " WHERE seq = ?",
                (Reason.FAULT, seq),
            )
            self._db.executemany(
                "DELETE FROM outbox WHERE kind = ? AND seq = ?", [(kind, seq) for kind in Kind]
            )
            if redeems is not None:
                self._db.execute("UPDATE scan SET regranted = 0 WHERE seq = ?", (redeems,))

    def write(self, entries: Sequence[Entry]) -> int:
        """Makes scans durable, with their outbox rows, all or none.

        Returns the last one's number; they are numbered in a row.
        """
        with Transaction(self._db):
            for entry in entries:
                seq = self._add(entry)
        return seq

    def _add(self, entry: Entry) -> int:
        scan, verdict = entry.scan, entry.verdict
        seq = self._db.execute(
            "INSERT INTO scan (id, service, lane, direction, ticket, admitted, code, reason, origin, moves,"
            " count_before, left_before, boot, monotonic_ms, wall_ms, trust, running_ms, acknowledged_ms,"
            " undurable, call_from, call_to)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                entry.call and entry.call.start,
                entry.call and entry.call.end,
            ),
        ).lastrowid
        assert seq is not None
        if entry.kind is not None:
            sent = entry.dispatch or _NOT_SENT
            self._db.execute(
                "INSERT INTO outbox (kind, seq, barcode_id, status_message, checked_in_time, sending,"
                " lost_ms, parked) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.kind,
                    seq,
                    entry.barcode_id,
                    verdict.message,
                    sent.time or None,
                    sent.sending,
                    sent.lost_ms or _lost_ms(entry),
                    sent.parked,
                ),
            )
        if entry.redeems is not None:
            self._db.execute("UPDATE scan SET regranted = 1 WHERE seq = ?", (entry.redeems,))
        if entry.origin is not Origin.LOCAL:
            self._db.execute("DELETE FROM meta WHERE key = ?", (_question_of(scan.id),))
        return seq

    def note_question(self, entry: Entry) -> None:
        """Notes that the server is being asked about a scan: the entry is what it comes to without an answer.

        The scan's own row, which the answer brings, takes the note away.
        """
        scan, call = entry.scan, entry.call
        assert call is not None
        assert entry.ticket is not None
        noted = (entry.service, scan.lane, scan.direction, entry.ticket.hex(), entry.origin)
        numbers = (entry.count_before, entry.left_before, entry.running_ms, call.start, call.end)
        self.set_note(_question_of(scan.id), json.dumps([*noted, *numbers, *_columns(scan.at)]))

    def end_questions(self, besides: Collection[ScanId] = ()) -> None:
        """What was asked when gated ended becomes a denied scan whose call was lost.

        ``besides`` are those that are being asked about now. The running time stays what it was.
        """
        query = (
            "SELECT key, CAST(value AS BLOB) FROM meta WHERE key GLOB ?"  # what was damaged may be no text
        )
        noted = self._db.execute(query, (f"{_QUESTION}*",)).fetchall()
        asked = {_question_of(scan) for scan in besides}
        ended = [(key, value) for key, value in noted if key not in asked]
        if not ended:
            return
        with Transaction(self._db):
            self.set_note("running_ms", self.ran_until_ms())  # which goes by the last scan
            for key, value in ended:
                with contextlib.suppress(*_ODD):  # what was damaged once may be anything
                    self._add(_unanswered(key, value))
                self._db.execute("DELETE FROM meta WHERE key = ?", (key,))

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

    def checkpoint(self, running_ms: int) -> None:
        """Moves what the WAL holds into the file, wipes it there, and notes the running time.

        The WAL keeps its length, so that scans overwrite what is there: where a file grows, its sync waits
        for the file system's own journal too, and on ext4 that took longer than the scan's own pages.

        The note comes last because the first commit to an empty WAL costs one sync more: no scan pays for it.
        """
        if self._db.total_changes == self._changes:
            return
        kept = self._has_room and not self._db.rolled_back
        [busy, pages, _] = self._move_wal("RESTART" if kept else "TRUNCATE")
        if not busy and pages > _LONGEST:
            [busy, pages, _] = self._move_wal("TRUNCATE")
        self._has_room = not busy and self._wipe_wal(pages or _ROOM)
        self._db.rolled_back = self._db.rolled_back and bool(busy)
        self.set_note("running_ms", running_ms)
        self._changes = self._db.total_changes

    def _move_wal(self, mode: str) -> tuple[int, int, int]:
        """Whether a reader stood in the way, the WAL's pages (none where it was cut), and those moved."""
        moved: tuple[int, int, int] = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        return moved

    def _wipe_wal(self, pages: int) -> bool:
        """Writes zeros over so many pages of a WAL that nobody reads any more; whether the disk took them.

        What is larger than the cache is written out before it is committed, and a roll-back leaves the WAL as
        long as that made it; SQLite does not shorten it by itself, since overwriting is faster
        (https://sqlite.org/pragma.html#pragma_journal_size_limit).
        """
        [size] = self._db.execute("PRAGMA cache_size").fetchone()
        [page_bytes] = self._db.execute("PRAGMA page_size").fetchone()
        self._db.execute("PRAGMA cache_size = 1")
        wiped = False
        # Where the disk is full there is no room to be made, and none is needed to go on without.
        with contextlib.suppress(sqlite3.Error), contextlib.ExitStack() as then:
            self._db.execute("BEGIN IMMEDIATE")
            then.callback(self._db.rollback)
            zeros = (pages + _STAY_IN_CACHE) * page_bytes
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('room', zeroblob(?))", (zeros,))
            wiped = True
        self._db.execute(f"PRAGMA cache_size = {size}")
        return wiped

    # Purge: forget, then wipe piece by piece, then compact

    def forget(self, running_ms: int, why: str, at: Moment) -> bytes:
        """Takes a fresh secret, returns it, and leaves all that is written for :meth:`wipe_piece`.

        One blank scan stays: numbering, running time and the lower bound of the time go on from it.
        """
        wall_ms = self.latest_wall_ms()
        if at.trust is not TimeTrust.UNKNOWN:
            wall_ms = max(wall_ms, int(at.wall.timestamp() * 1000))
        secret = os.urandom(SECRET_BYTES)
        with Transaction(self._db):
            stays = self._db.execute(
                "INSERT INTO scan (id, service, lane, direction, admitted, reason, origin, moves,"
                " count_before, left_before, boot, monotonic_ms, wall_ms, trust, running_ms)"
                " VALUES (x'', '', '', ?, 0, ?, ?, 0, 0, 0, '', 0, ?, ?, ?)",
                (Direction.ENTRY, Reason.UNDECIDED, Origin.LOCAL, wall_ms, TimeTrust.ESTIMATED, running_ms),
            ).lastrowid
            self.occurred("command", None, "purge", why, at)
            happened = self._db.execute("SELECT max(seq) FROM occurrence").fetchone()[0]
            self._db.execute("DELETE FROM double_entry")
            self._db.execute("DELETE FROM meta WHERE key GLOB ?", (f"{_QUESTION}*",))
            self.set_note("secret", secret)
            self.set_note("purge_scans", stays or 0)
            self.set_note("purge_occurrences", happened)
        return secret

    def wipe_piece(self) -> bool:
        """Wipes some of what was forgotten; False once there is none."""
        scans, occurrences = self.note("purge_scans") or 0, self.note("purge_occurrences") or 0
        rows = self._db.execute(
            "SELECT seq FROM scan WHERE seq < ? ORDER BY seq LIMIT ?", (scans, _WIPED)
        ).fetchall()
        with Transaction(self._db):
            self._db.executemany(
                "DELETE FROM outbox WHERE kind = ? AND seq = ?",
                [(kind, seq) for kind in Kind for (seq,) in rows],
            )
            self._db.executemany("DELETE FROM scan WHERE seq = ?", rows)
            happened = self._db.execute(
                "DELETE FROM occurrence WHERE seq IN (SELECT seq FROM occurrence WHERE seq < ? LIMIT ?)",
                (occurrences, _WIPED),
            ).rowcount
            if rows or happened:
                return True
            self._db.execute("DELETE FROM meta WHERE key IN ('purge_scans', 'purge_occurrences')")
        return False

    def compact(self) -> None:
        """Gives back the room of wiped rows, in the file and in its WAL."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._has_room = False

    def finish_purge(self) -> None:
        """At a start: wipes what a purge that was cut short has left."""
        if self.note("purge_scans") is not None:
            while self.wipe_piece():
                pass
            self.compact()


_NOT_SENT = Dispatch(time=0)
_QUESTION = "question:"
# What reading a noted question raises, and writing it, if it is none.
_ODD = (
    ValueError,
    TypeError,
    OverflowError,
    OSError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
)


def _question_of(scan: ScanId) -> str:
    """The key of the note that the server is being asked about it."""
    return f"{_QUESTION}{scan.hex}"


def _unanswered(key: str, value: bytes) -> Entry:
    """What a noted question comes to. Raises one of ``_ODD``."""
    [service, lane, direction, ticket, origin, *numbers] = json.loads(value)
    [count, left, running_ms, start, end, *at] = numbers
    boot, monotonic_ms, wall_ms, trust = at
    moment = Moment(_time(wall_ms), TimeTrust(trust), monotonic_ms / 1000, boot)
    return Entry(
        scan=Scan(ScanId(UUID(key.removeprefix(_QUESTION))), "", lane, Direction(direction), moment),
        service=service,
        ticket=bytes.fromhex(ticket),
        verdict=deny(None, Reason.NO_ANSWER),
        origin=Origin(origin),
        moves=False,
        count_before=count,
        left_before=left,
        running_ms=running_ms,
        call=Window(start, end),
    )


def _lost_ms(entry: Entry) -> int | None:
    """From when on a download tells whether the server has recorded an admission that its call was about."""
    if entry.call is None or not entry.verdict.admitted:
        return None
    return entry.running_ms + 1000 * (entry.call.end - entry.call.start)


def _columns(at: Moment) -> tuple[str, int, int, str]:
    return at.boot, int(at.monotonic * 1000), int(at.wall.timestamp() * 1000), at.trust


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
