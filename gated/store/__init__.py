"""The store: ``mirror.db`` and ``journal.db``, and the one thread that touches them.

Scans go before everything else; downloads come in pieces small enough that a scan never waits for a page.
Only the daemon opens the files.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gated.core.explain import Explanation, PastScan
from gated.core.outbox import Lost, Row
from gated.core.scan import Moment, Scan, ScanId
from gated.core.ticket import Ticket
from gated.core.verdict import Verdict
from gated.errors import StoreError
from gated.store.database import Connection, Damaged, open_database
from gated.store.desk import Ask, Decided, Desk, DeskRules, Double, Reply, Terms
from gated.store.history import Place, Reader
from gated.store.journal import Journal, Passage
from gated.store.mirror import SPANS, Mirror
from gated.store.outbox import Outbox, OutboxSize, Waiting
from gated.store.privacy import Secrets
from gated.store.running import RunningTime
from gated.store.writer import Writer

__all__ = [
    "Ask",
    "Decided",
    "DeskRules",
    "Double",
    "Health",
    "OutboxSize",
    "Passage",
    "Place",
    "Reply",
    "Store",
    "StoreState",
    "Terms",
    "Waiting",
]

# Rows written in one piece, so that a scan waits for no more than that.
_PIECE = 100


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the store holds, for people and for planning downloads."""

    service: str | None
    complete: bool
    """Whether one full download of the service is on disk."""
    mark: int | None
    """X-COMPARE-TIMESTAMP of the next delta: Unix seconds by the server's clock."""
    run: int
    """Number of the last full download begun."""
    run_page: int
    """The page at which that one goes on; 0 when it has ended."""
    run_mark: int | None
    run_total: int | None
    run_stable: bool
    """Whether the server's total has held still during that one so far."""
    unstable: int
    """Full downloads in a row during which it did not."""
    agreed: bool
    """Whether the service's own total was the number of tickets when the last full download ended."""
    tickets: int
    """Tickets present when the last full download ended."""
    outbox: OutboxSize
    undurable: int
    """Scans that wait in memory because the disk fails."""


@dataclass(frozen=True, slots=True)
class Health:
    """What hampers the lanes: scans that could not be written, a mirror that is not whole yet."""

    undurable: int
    complete: bool


class Store:
    """The asynchronous face of both databases. Every method raises StoreError if a database can't be used."""

    def __init__(self, state_dir: Path, rules: DeskRules) -> None:
        """Opens or creates both files in ``state_dir``. Raises StoreError."""
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{state_dir}: {error.strerror}") from error
        journal = open_database(state_dir / "journal.db", "journal", synchronous="FULL")
        self._journal = Journal(journal)
        self._outbox = Outbox(journal)
        try:
            self._journal.finish_purge()
            self._mirror = Mirror(_open_mirror(state_dir / "mirror.db"), Secrets(self._journal.secret()))
            so_far_ms = max(self._journal.ran_until_ms(), self._mirror.ran_until_ms())
            self._running = RunningTime(so_far_ms, time.monotonic())
            self._desk = Desk(self._mirror, self._journal, self._running, rules)
            self._desk.service = self._journal.note("service") or ""
            self._outbox.recover(so_far_ms)
            self._started_ms = so_far_ms
            self._reader = Reader(journal, self._mirror, self._desk, self._running)
            self._recall_types()
        except sqlite3.Error as error:
            self._journal.close()
            raise StoreError(f"{state_dir}: {error}") from error
        except StoreError:
            self._journal.close()
            raise
        self._writer = Writer()

    def start(self) -> None:
        """Starts the database thread, from the running loop."""
        self._writer.start()

    async def close(self) -> None:
        """Finishes what was handed in and closes both files."""
        await self._writer.do(self._desk.write_waiting)
        await self._writer.close()
        self._mirror.close()
        self._journal.close()

    @property
    def alive(self) -> bool:
        """Whether the database thread runs; waiting for a slow disk is running."""
        return self._writer.alive

    # Scans

    async def decide(self, scan: Scan, terms: Terms) -> Decided | Ask:
        """Decides a scan and makes it durable, or says that the server has to be asked."""
        return await self._writer.do(lambda: self._desk.decide(scan, terms), urgent=True)

    async def settle(self, ask: Ask, reply: Reply) -> Decided:
        """Makes durable what came of a question, and lets the ticket go."""
        return await self._writer.do(lambda: self._desk.settle(ask, reply), urgent=True)

    async def write_undecided(self, scan: Scan, verdict: Verdict) -> Decided:
        """Makes durable a scan on which nothing was decided."""
        return await self._writer.do(lambda: self._desk.write_undecided(scan, verdict), urgent=True)

    async def override(self, scan: Scan) -> Decided:
        """Makes durable that an operator admitted a ticket, whatever the rules say."""
        return await self._writer.do(lambda: self._desk.override(scan), urgent=True)

    async def recorded_by_server(self, seq: int, monotonic: float) -> None:
        """Notes that the server has a scan after all: a late answer said so. It need not be uploaded."""
        await self._writer.do(lambda: self._outbox.acknowledge_one(seq, self._running.at(monotonic)))

    async def not_recorded_by_server(self, seq: int) -> None:
        """Notes that the server does not have a scan after all: it is uploaded."""
        await self._writer.do(lambda: self._outbox.found_not_recorded(seq))

    async def set_passage(self, seq: int, passage: Passage) -> None:
        """Notes what came of a scan's grant, before the guest's next scan is decided."""
        await self._writer.do(lambda: self._journal.set_passage(seq, passage), urgent=True)

    async def occurred(self, kind: str, lane: str | None, what: str, why: str, at: Moment) -> None:
        """Journals a command, an alarm or a change of mode."""
        await self._writer.do(lambda: self._journal.occurred(kind, lane, what, why, at))

    # Upload

    async def freeze(self, limit: int, at: Moment) -> tuple[Row, ...]:
        """The next outbox rows to send, frozen, of one kind and one service.

        Rows handed out before of which nothing was said since, as when the disk failed, may have arrived.
        """

        def freeze() -> tuple[Row, ...]:
            self._outbox.recover(self._running.at(at.monotonic))
            return self._outbox.freeze(self._desk.service, limit, at)

        return await self._writer.do(freeze)

    async def acknowledge(self, rows: Sequence[Row], monotonic: float) -> None:
        """Notes that the server has these rows."""
        await self._writer.do(lambda: self._outbox.acknowledge(rows, self._running.at(monotonic)))

    async def keep(self, rows: Sequence[Row]) -> None:
        """Notes that these rows have not arrived."""
        await self._writer.do(lambda: self._outbox.keep(rows))

    async def lose(self, rows: Sequence[Row], monotonic: float) -> None:
        """Notes that these rows went out and were not answered."""
        await self._writer.do(lambda: self._outbox.lose(rows, self._running.at(monotonic)))

    async def park(self, rows: Sequence[Row], why: str) -> None:
        """Sends these rows no more without a person's word."""
        await self._writer.do(lambda: self._outbox.park(rows, why))

    async def settle_lost(self, asked: float) -> dict[Lost, int]:
        """Decides on the lost rows by a whole download that was asked for at monotonic ``asked``."""
        return await self._writer.do(
            lambda: self._outbox.settle_lost(self._desk.service, self._running.at(asked), self._mirror.shown)
        )

    async def retry_parked(self) -> int:
        """Sends all parked rows again; returns how many."""
        return await self._writer.do(self._outbox.retry)

    async def outbox_rows(self, after: int, limit: int) -> tuple[Waiting, ...]:
        """Outbox rows for people, from the first whose number is above ``after``."""
        return await self._writer.do(lambda: self._outbox.rows(after, limit))

    # Download

    async def bind(self, service: str) -> None:
        """Makes ``service`` the one whose tickets are mirrored; another's mirror is thrown away."""

        def bind() -> None:
            self._mirror.bind(service)
            self._recall_types()
            if self._journal.note("service") != service:
                self._journal.set_note("service", service)
            self._desk.service = service

        await self._writer.do(bind)

    async def set_service_types(self, types: frozenset[str], monotonic: float) -> None:
        """Tells the desk which ticket types the service lets in, asked for at that monotonic time."""

        def set_types() -> None:
            read_ms = self._running.at(monotonic)
            self._mirror.set_notes({"types": json.dumps(sorted(types)), "types_ms": read_ms})
            self._recall_types()

        await self._writer.do(set_types)

    async def put(self, tickets: Sequence[Ticket], *, asked: float, run: int) -> tuple[Double, ...]:
        """Writes downloaded rows; ``asked`` is the monotonic time at which they were asked for.

        Returns the tickets among them that were checked in too often, once at this gate.
        """
        asked_ms = self._running.at(asked)
        doubles: tuple[Double, ...] = ()
        for start in range(0, len(tickets), _PIECE):
            piece = tickets[start : start + _PIECE]
            await self._writer.do(partial(self._mirror.put, piece, asked_ms=asked_ms, run=run))
            doubles += await self._writer.do(partial(self._desk.doubles, piece))
        await self._writer.do(self._mirror.checkpoint)
        return doubles

    async def remember(self, **notes: int | str | None) -> None:
        """Notes where downloads stand, all at once."""
        await self._writer.do(lambda: self._mirror.set_notes(notes))

    async def seen(self, run: int) -> int:
        """How many different tickets the full download ``run`` has seen."""
        return sum([await self._writer.do(partial(self._mirror.seen, run, span)) for span in SPANS])

    async def unseen(self, run: int) -> int:
        """How many present tickets the full download ``run`` did not see."""
        return sum([await self._writer.do(partial(self._mirror.unseen, run, span)) for span in SPANS])

    async def count(self) -> int:
        """How many tickets are present."""
        return sum([await self._writer.do(partial(self._mirror.count, span)) for span in SPANS])

    async def sweep(self, run: int) -> None:
        """Marks what the full download ``run`` did not see as absent."""
        for span in SPANS:
            await self._writer.do(partial(self._mirror.sweep, run, span))

    # Upkeep

    async def state(self) -> StoreState:
        """What the store holds now."""
        return await self._writer.do(self._state)

    async def health(self) -> Health:
        """What hampers the lanes now."""
        return await self._writer.do(
            lambda: Health(self._desk.write_waiting(), bool(self._mirror.note("complete")))
        )

    async def note(self, key: str) -> int | str | None:
        """What the gate has to remember over a restart: an operator's mode, an emergency."""
        return await self._writer.do(lambda: self._journal.note(key))

    async def set_note(self, key: str, value: int | str) -> None:
        """Remembers it durably."""
        await self._writer.do(lambda: self._journal.set_note(key, value))

    async def upkeep(self) -> int:
        """Writes what waits since the disk failed and empties the WALs; returns how much still waits."""

        def keep() -> int:
            waiting = self._desk.write_waiting()
            self._journal.checkpoint(self._running.at(time.monotonic()))
            self._mirror.checkpoint()
            return waiting

        return await self._writer.do(keep)

    # For people

    async def explain(self, barcode: str, places: Sequence[Place], at: Moment) -> Explanation:
        """Why a barcode would get the verdict that it would get now at these places, and its scans here."""
        known, digests = await self._writer.do(
            lambda: self._reader.ticket(barcode, places, at, self._started_ms)
        )
        return replace(known, scans=await self._scans(digests))

    async def explain_scan(self, scan: ScanId, at: Moment) -> Explanation | None:
        """A scan and what is known of its ticket; None if there is no such scan here."""
        found = await self._find(scan)
        if found is None:
            return None
        past, digest = found
        known = await self._writer.do(lambda: self._reader.digest(digest, at, self._started_ms))
        scans = await self._scans(frozenset([digest])) if digest else ()
        return replace(known, scan=past, scans=scans)

    async def _find(self, scan: ScanId) -> tuple[PastScan, bytes | None] | None:
        for span in await self._writer.do(self._reader.spans):
            if (found := await self._writer.do(partial(self._reader.scan, scan, span))) is not None:
                return found
        waiting = await self._writer.do(lambda: list(self._reader.unwritten()))
        return next(((past, digest) for past, digest in waiting if past.id == scan), None)

    async def _scans(self, digests: frozenset[bytes]) -> tuple[PastScan, ...]:
        """All scans that are filed under these digests, oldest first."""
        scans: tuple[PastScan, ...] = ()
        for span in await self._writer.do(self._reader.spans):
            scans += await self._writer.do(partial(self._reader.scans, digests, span))
        waiting = await self._writer.do(lambda: list(self._reader.unwritten()))
        return (*scans, *(past for past, digest in waiting if digest in digests))

    # After the event

    async def purge(self, why: str, at: Moment, *, lose_outbox: bool = False) -> int:
        """Forgets every ticket and scan, and takes a fresh secret. Nothing may go up or come down meanwhile.

        Returns how many scans the server has not got: if there are any, nothing is forgotten, unless
        ``lose_outbox``. Scans are decided all the while, from a mirror that is not ready yet. What a purge
        that is cut short has left is wiped at the next start.
        """
        waiting = await self._writer.do(lambda: self._forget(why, at, lose_outbox=lose_outbox))
        if waiting and not lose_outbox:
            return waiting
        while await self._writer.do(self._mirror.wipe_piece):
            await self._writer.do(self._mirror.checkpoint)
        await self._writer.do(self._mirror.compact)
        await self._writer.do(lambda: self._mirror.bind(self._desk.service))
        while await self._writer.do(self._journal.wipe_piece):
            await self._writer.do(lambda: self._journal.checkpoint(self._running.at(time.monotonic())))
        await self._writer.do(self._journal.compact)
        return waiting

    def _forget(self, why: str, at: Moment, *, lose_outbox: bool) -> int:
        """The moment of a purge, between two scans. If the power goes in it, the mirror empties itself."""
        if self._desk.write_waiting():
            raise StoreError("scans wait in memory: the disk fails")
        size = self._outbox.size()
        waiting = size.check_ins + size.others
        if waiting and not lose_outbox:
            return waiting
        self._mirror.forget()
        secret = self._journal.forget(self._running.at(time.monotonic()), why, at)
        self._mirror.renew(Secrets(secret))
        self._recall_types()
        return waiting

    def _recall_types(self) -> None:
        """The service's types outlive a restart without a network."""
        self._desk.service_types = frozenset(json.loads(self._mirror.note("types") or "[]"))
        self._desk.service_read_ms = self._mirror.note("types_ms") or 0

    def _state(self) -> StoreState:
        note = self._mirror.note
        return StoreState(
            service=self._journal.note("service"),
            complete=bool(note("complete")),
            mark=note("mark"),
            run=note("run") or 0,
            run_page=note("run_page") or 0,
            run_mark=note("run_mark"),
            run_total=note("run_total"),
            run_stable=note("run_stable") != 0,
            unstable=note("unstable") or 0,
            agreed=bool(note("agreed")),
            tickets=note("tickets") or 0,
            outbox=self._outbox.size(),
            undurable=self._desk.write_waiting(),
        )


def _open_mirror(path: Path) -> Connection:
    """The mirror's file; one that is damaged is thrown away, since downloads bring it back."""
    try:
        return open_database(path, "mirror", synchronous="NORMAL")
    except Damaged:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return open_database(path, "mirror", synchronous="NORMAL")
