"""The outbox: the scans that the server has not acknowledged, and what is known of each on its way.

A row is frozen before it first goes out. Then it is acknowledged, and wiped; or it comes back, to go again;
or no answer came, and it waits for a download to show whether the server has it; or it is parked. Nothing is
deleted because a server said no. All methods run on the database thread, each write in one transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from typing import Any

from gated.core.outbox import Kind, Lost, Row, Shown, Window, lost, stamped
from gated.core.scan import Moment, TimeTrust
from gated.store.database import Connection, Transaction

_Columns = tuple[Any, ...]

UNCERTAIN = "uncertain"
"""Why a row is parked that the server may have and that must not count twice."""


_ROW = (
    "o.kind, o.seq, o.barcode_id, s.code, o.status_message, s.service, o.checked_in_time,"
    " s.boot, s.monotonic_ms, s.wall_ms, s.trust"
)
# A check-out replayed while the check-in before it still waits would be answered with "not checked in".
_ENTRY_WAITS = (
    "EXISTS (SELECT 1 FROM outbox w JOIN scan e USING (seq)"
    f" WHERE w.kind = {Kind.CHECK_IN:d} AND w.parked IS NULL AND e.ticket = s.ticket AND e.seq < s.seq)"
)
_SENDABLE = (
    f"SELECT {_ROW} FROM outbox o JOIN scan s USING (seq)"
    " WHERE {whose} AND o.parked IS NULL AND o.lost_ms IS NULL"
    " AND (o.checked_in_time IS NOT NULL OR s.trust <> 'unknown' OR ?)"
    f" AND NOT (o.kind = {Kind.CHECK_OUT:d} AND {_ENTRY_WAITS})"
)
# Whether another scan of the ticket here may be what the server shows: one that was made within the time of
# the row's call, or in the same second.
_TWIN = (
    "EXISTS (SELECT 1 FROM scan t WHERE t.ticket = s.ticket AND t.moves = 1 AND t.direction = s.direction"
    " AND t.seq <> s.seq"
    " AND abs(t.running_ms - s.running_ms) <= 1000 * (1 + coalesce(s.call_to - s.call_from, 0)))"
)
_LOST = (
    f"SELECT {_ROW}, s.ticket, s.call_from, s.call_to, {_TWIN}"
    " FROM outbox o JOIN scan s USING (seq) WHERE o.lost_ms < ?"
)

# The scan that let the guest of a refused one in, and whether it waits here and is not on its way. None where
# the refused one was redeemed: both are one check-in then.
_ADMITTED_SINCE = (
    "SELECT e.seq, EXISTS (SELECT 1 FROM outbox o WHERE o.sending = 0 AND o.seq = e.seq AND o.kind IN"
    f" ({Kind.CHECK_IN:d}, {Kind.OTHER:d}, {Kind.CHECK_OUT:d}))"
    " FROM scan c JOIN scan e ON e.ticket = c.ticket AND e.direction = c.direction"
    " WHERE c.seq = ? AND c.regranted = 0 AND e.moves = 1 AND e.seq > c.seq ORDER BY e.seq LIMIT 1"
)

# With the kind, which the outbox's rows are ordered by, SQLite finds them by their numbers.
_ANY_KIND = f"kind IN ({', '.join(f'{kind:d}' for kind in Kind)})"


@cache
def _freezing(rows: int) -> str:
    """Freezes so many rows, of each a kind, a number and a time: by one statement, since a scan may wait."""
    return f"""
        UPDATE outbox SET checked_in_time = column3, sending = 1
        FROM (VALUES {", ".join(["(?, ?, ?)"] * rows)}) WHERE kind = column1 AND seq = column2
    """


# Rows that are counted in one go: a scan need not wait for the whole outbox.
_COUNTED = 4096
_COUNT = (
    "SELECT count(*), count(parked), min(seq), max(seq)"
    " FROM (SELECT seq, parked FROM outbox WHERE kind = ? AND seq > ? ORDER BY seq LIMIT ?)"
)

# Rows of a batch at least, however few the server takes at once: for one to be parked, another has to prove
# that the service takes any, or two that it takes none (gated/core/upload.py).
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class OutboxSize:
    """How many scans wait for the server, how many are parked, since when the oldest waits (Unix ms)."""

    check_ins: int
    others: int
    parked: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class Count:
    """Rows of one kind, how many of them are parked, and the numbers of the first and the last, if any."""

    kind: Kind
    rows: int
    parked: int
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of the outbox, for people. ``parked`` is why it is sent no more; blank while it is."""

    seq: int
    scan: bytes
    lane: str
    barcode_id: str
    code: int
    message: str
    wall_ms: int
    lost: bool
    parked: str


class Outbox:
    """The outbox's rows."""

    def __init__(self, connection: Connection) -> None:
        self.go_on(connection)

    def go_on(self, connection: Connection) -> None:
        """Goes on with another connection: that of a journal that was salvaged."""
        self._db = connection

    def recover(self, running_ms: int) -> None:
        """What was on its way when the power went, or the disk failed, may have arrived."""
        self._db.execute("UPDATE outbox SET lost_ms = ?, sending = 0 WHERE sending = 1", (running_ms,))

    def freeze(self, service: str, limit: int, at: Moment, *, mixed: bool = False) -> tuple[Row, ...]:
        """The next rows to send, of one kind and one service, each frozen with the time it will always have.

        Check-ins first, and rows of ``service`` before those of another. While the time is unknown, scans
        stamped in the unknown wait. The newest row goes along, so that no batch is made of bad rows alone; a
        ``limit`` below three counts as three, for the same reason. Where all of one kind may be bad, they go
        ``mixed`` with what the same call takes.
        """
        limit = max(limit, _FEWEST)
        chosen = self._oldest("s.service IN (?, '')", service, limit, at, mixed=mixed) or self._oldest(
            "s.service NOT IN (?, '')", service, limit, at, mixed=mixed
        )
        rows = [self._frozen(row, service, at) for row in chosen]
        rows = [row for row in rows if row.service == rows[0].service]
        if rows:
            with Transaction(self._db):
                frozen = chain.from_iterable((row.kind, row.seq, row.checked_in_time) for row in rows)
                self._db.execute(_freezing(len(rows)), tuple(frozen))
        return tuple(rows)

    def acknowledge(self, rows: Sequence[Row], running_ms: int) -> None:
        """The server has these rows: their barcodes are wiped."""
        with Transaction(self._db):
            self._acknowledge([row.seq for row in rows], running_ms)
            self._note_running(running_ms)

    def acknowledge_one(self, seq: int, running_ms: int) -> bool:
        """The server has one scan, whichever way it got there. False if it has that guest's check-in twice.

        If that scan let nobody in, and its guest got in with another since, the check-in is the other one's,
        which is not sent any more; if it has gone up by now, the server has it twice, and it is marked.
        """
        with Transaction(self._db):
            scan = self._db.execute("SELECT admitted FROM scan WHERE seq = ?", (seq,)).fetchone()
            admitted = scan is not None and bool(scan[0])  # none: purged since
            since = None if admitted else self._db.execute(_ADMITTED_SINCE, (seq,)).fetchone()
            whose, waits = since or (seq, admitted)
            if waits:
                self._acknowledge([whose], running_ms)
            elif since:
                self._db.execute("UPDATE scan SET marked = 1 WHERE seq = ?", (whose,))
            self._note_running(running_ms)
        return bool(waits) or since is None

    def keep(self, rows: Sequence[Row]) -> None:
        """These rows have not arrived: they go again."""
        self._set(rows, "sending = 0")

    def lose(self, rows: Sequence[Row], running_ms: int) -> None:
        """These rows went out and no answer came.

        Denials go again at once, marked: a second copy takes nothing from anybody. The others wait for a
        download to show what became of them.
        """
        waits = [row for row in rows if row.status_code in (100, 200)]
        again = [row for row in rows if row.status_code not in (100, 200)]
        with Transaction(self._db):
            for row in waits:
                self._update(row.seq, "sending = 0, lost_ms = ?", running_ms)
            for row in again:
                self._send_again(row.seq)
            self._note_running(running_ms)

    def found_not_recorded(self, seq: int) -> None:
        """A late answer said that the server has not recorded a scan: it is sent, no lost call any more."""
        with Transaction(self._db):
            self._update(seq, "lost_ms = NULL")
            self._db.execute("UPDATE scan SET call_from = NULL, call_to = NULL WHERE seq = ?", (seq,))

    def park(self, rows: Sequence[Row], why: str) -> None:
        """These rows are sent no more without a person's word."""
        with Transaction(self._db):
            for row in rows:
                self._update(row.seq, "sending = 0, parked = ?", why)

    def settle_lost(
        self, service: str, asked_ms: int, shown: Callable[[bytes], Shown | None]
    ) -> dict[Lost, int]:
        """Decides on each lost row by a download that was asked for at ``asked_ms``; counts the decisions.

        ``shown`` gives what the mirror of ``service`` shows of a ticket now, by its digest. It proves nothing
        about rows of another service.
        """
        counts = dict.fromkeys(Lost, 0)
        found = self._db.execute(_LOST, (asked_ms,)).fetchall()
        if not found:
            return counts
        with Transaction(self._db):
            for *columns, ticket, start, end, twin in found:
                row = self._frozen(tuple(columns), service, None)
                window = None if start is None else Window(start, end)
                seen = shown(ticket) if row.service == service else _NOTHING_SHOWN
                if seen is not None and twin:
                    seen = replace(seen, last_in=None, last_out=None)
                fate = lost(row, window, seen)
                counts[fate] += 1
                match fate:
                    case Lost.RECORDED:
                        self._acknowledge([row.seq], asked_ms)
                    case Lost.AGAIN:
                        self._send_again(row.seq)
                    case Lost.UNCERTAIN:
                        self._update(row.seq, "lost_ms = NULL, parked = ?", UNCERTAIN)
        return counts

    def retry(self) -> int:
        """Sends all parked rows again; those that the server may have are marked. Returns how many."""
        with Transaction(self._db):
            self._db.execute(
                "UPDATE scan SET marked = 1 WHERE seq IN (SELECT seq FROM outbox WHERE parked = ?)",
                (UNCERTAIN,),
            )
            return self._db.execute("UPDATE outbox SET parked = NULL WHERE parked IS NOT NULL").rowcount

    def rows(self, after: int, limit: int) -> tuple[Waiting, ...]:
        """Rows for people, in the order of their scans, from the first whose number is above ``after``."""
        query = (
            "SELECT o.seq, s.id, s.lane, o.barcode_id, s.code, o.status_message, s.wall_ms,"
            " o.lost_ms IS NOT NULL, coalesce(o.parked, '') FROM outbox o JOIN scan s USING (seq)"
            " WHERE o.kind = ? AND o.seq > ? ORDER BY o.seq LIMIT ?"
        )
        found = [columns for kind in Kind for columns in self._db.execute(query, (kind, after, limit))]
        return tuple(Waiting(*columns) for columns in sorted(found)[:limit])

    def size(self) -> OutboxSize:
        """How much waits for the server."""
        return self.size_of([self.count(kind, 0, -1) for kind in Kind])

    def count(self, kind: Kind, after: int, most: int = _COUNTED) -> Count:
        """Counts at most so many rows of a kind, from the first whose number is above ``after``."""
        return Count(kind, *self._db.execute(_COUNT, (kind, after, most)).fetchone())

    def size_of(self, counts: Sequence[Count]) -> OutboxSize:
        """How much waits, by counts of all rows there are."""
        check_ins = sum(count.rows for count in counts if count.kind is Kind.CHECK_IN)
        oldest = min((count.first for count in counts if count.first is not None), default=None)
        since = self._db.execute("SELECT min(wall_ms) FROM scan WHERE seq = ?", (oldest,)).fetchone()
        return OutboxSize(
            check_ins,
            sum(count.rows for count in counts) - check_ins,
            sum(count.parked for count in counts),
            since[0],
        )

    def _oldest(self, whose: str, service: str, limit: int, at: Moment, *, mixed: bool) -> list[_Columns]:
        """The oldest rows of one kind that may be sent, the last one exchanged for the newest.

        Check-outs that are replayed keep their order: each goes alone, and ``mixed`` with none.
        """
        query = _SENDABLE.replace("{whose}", whose)
        known = at.trust is not TimeTrust.UNKNOWN
        rows = self._db.execute(f"{query} ORDER BY o.kind, o.seq LIMIT ?", (service, known, limit)).fetchall()
        kinds = {rows[0][0]} if rows else set()
        if mixed and kinds != {Kind.CHECK_OUT}:
            kinds = {Kind.CHECK_IN, Kind.OTHER}
        rows = [row for row in rows if row[0] in kinds]
        if len(rows) == limit and rows[0][0] != Kind.CHECK_OUT:
            newest = f"{query} AND o.kind = ? ORDER BY o.seq DESC LIMIT 1"
            rows[-1] = self._db.execute(newest, (service, known, rows[-1][0])).fetchone()
        return rows

    def _frozen(self, columns: _Columns, service: str, at: Moment | None) -> Row:
        kind, seq, barcode_id, code, message, owner, time, *stamp = columns
        if time is None:
            scan = _moment(*stamp)
            time = _unix(scan.wall if at is None else stamped(scan, at))
        return Row(seq, Kind(kind), barcode_id, time, code, message, owner or service)

    def _acknowledge(self, seqs: Sequence[int], running_ms: int) -> None:
        which = f"seq IN ({', '.join('?' * len(seqs))})"
        self._db.execute(f"DELETE FROM outbox WHERE {_ANY_KIND} AND {which}", seqs)
        self._db.execute(f"UPDATE scan SET acknowledged_ms = ? WHERE {which}", (running_ms, *seqs))

    def _send_again(self, seq: int) -> None:
        self._update(seq, "sending = 0, lost_ms = NULL")
        self._db.execute("UPDATE scan SET marked = 1 WHERE seq = ?", (seq,))

    def _set(self, rows: Sequence[Row], change: str) -> None:
        with Transaction(self._db):
            for row in rows:
                self._update(row.seq, change)

    def _update(self, seq: int, change: str, *values: int | str) -> None:
        self._db.execute(f"UPDATE outbox SET {change} WHERE {_ANY_KIND} AND seq = ?", (*values, seq))

    def _note_running(self, running_ms: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('running_ms', ?)", (running_ms,))


# A copy in memory, while the disk can't be written

# With all scans of its tickets, which tell whether a row's check-in can be told from another's.
_COPIED = {
    "scan": "SELECT * FROM scan WHERE ticket IN (SELECT s.ticket FROM outbox o JOIN scan s USING (seq))"
    " OR seq IN (SELECT seq FROM outbox)",
    "outbox": "SELECT * FROM outbox",
}


def copy_outbox(journal: Connection, copy: Connection) -> None:
    """Fills an empty journal with the outbox of another, and with what it takes to send that."""
    with Transaction(copy):
        for table, query in _COPIED.items():
            _insert(copy, table, journal.execute(query).fetchall())
        # A gate that was killed on this disk may have sent any of them without a record of it.
        copy.execute("UPDATE scan SET marked = 1 WHERE seq IN (SELECT seq FROM outbox)")


def bring_back(copy: Connection, journal: Connection) -> None:
    """Notes in a journal what came of a copy of its outbox."""
    with Transaction(journal):
        for acknowledged, marked, start, end, seq in copy.execute(
            "SELECT acknowledged_ms, marked, call_from, call_to, seq FROM scan"
        ).fetchall():
            journal.execute(
                "UPDATE scan SET acknowledged_ms = ?, marked = ?, call_from = ?, call_to = ? WHERE seq = ?",
                (acknowledged, marked, start, end, seq),
            )
            journal.execute(f"DELETE FROM outbox WHERE {_ANY_KIND} AND seq = ?", (seq,))
        _insert(journal, "outbox", copy.execute("SELECT * FROM outbox").fetchall())


def _insert(connection: Connection, table: str, rows: Sequence[_Columns]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


# What a mirror shows of the tickets of another service: they may have entries left.
_NOTHING_SHOWN = Shown(None, None, entries=2)


def _moment(boot: str, monotonic_ms: int, wall_ms: int, trust: str) -> Moment:
    return Moment(datetime.fromtimestamp(wall_ms / 1000, UTC), TimeTrust(trust), monotonic_ms / 1000, boot)


def _unix(time: datetime) -> int:
    return int(time.timestamp())
