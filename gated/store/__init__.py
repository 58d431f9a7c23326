"""The store: ``mirror.db`` and ``journal.db``, and the thread that reads and writes them.

Scans go before everything else, in the midst of a page of a download as well.
A second thread only reads, to answer scans while the disk holds the first one up (gated/store/front.py). Only
the daemon opens the files. A mirror that is found damaged is begun anew, since downloads bring it back.
Files that can't be written at the start are read, and opened again once they can (gated/store/files.py).
"""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gated.core.explain import Explanation, PastScan
from gated.core.outbox import Kind, Lost, Row, Window
from gated.core.scan import Moment, Scan, ScanId
from gated.core.ticket import Ticket
from gated.core.verdict import Verdict
from gated.errors import StoreError
from gated.store.database import damaged
from gated.store.desk import Ask, Decided, Desk, Double, Reply, Terms
from gated.store.files import Files
from gated.store.front import Front
from gated.store.history import Place, Reader
from gated.store.journal import Entry, Journal, Passage
from gated.store.memory import DeskRules, Memory
from gated.store.mirror import Mirror, MirrorBeside, MirrorDamaged, Span
from gated.store.outbox import Count, Outbox, OutboxSize, Waiting
from gated.store.privacy import Secrets
from gated.store.running import RunningTime
from gated.store.salvage import Salvaged
from gated.store.writer import Piece, Writer

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

# Seconds that a download waits for scans before it goes on.
_WAY_S = 0.25
# Seconds that a stop waits for the disk; systemd kills after TimeoutStopSec.
_CLOSE_S = 3.0


def _ignored(_: Double) -> None:
    """For whoever need not be told."""


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
    unwritable: str
    """Why the files could not be opened for writing; blank if they were."""

    @property
    def disk_fails(self) -> bool:
        """Whether scans are kept in memory."""
        return bool(self.undurable or self.unwritable)


class Store:
    """The asynchronous face of both databases. Every method raises StoreError if a database can't be used."""

    def __init__(self, state_dir: Path, rules: DeskRules) -> None:
        """Opens or creates both files in ``state_dir``; reads them where they can't be written.

        Raises StoreError where a file is from a newer gated, or can't even be read.
        """
        try:
            try:
                self._take_up(Files.open(state_dir), rules)
            except sqlite3.OperationalError as error:  # the disk takes no more than it took to open them
                self._take_up(Files.open_to_read(state_dir, str(error)), rules)
        except sqlite3.Error as error:
            raise StoreError(f"{state_dir}: {error}") from error
        self._writer = Writer("store", self._mend)
        self._front = Front(self._writer, self._desk, self._desk_beside)
        self._mirror_stays = threading.Lock()  # held while its WAL is moved
        self._last_state: StoreState | None = None
        self.mirrors_renewed = int(self._files.mirror_renewed)
        """How often the mirror was found damaged and begun anew: each time it has to be downloaded again."""

    def _take_up(self, files: Files, rules: DeskRules) -> None:
        self._files = files
        try:
            self._journal = Journal(files.journal)
            self._outbox = Outbox(files.outbox)
            with suppress(sqlite3.OperationalError):  # a full disk: it is finished at another start
                self._journal.finish_purge()
                self._journal.end_questions()
            self._secret = self._journal.secret()
            secrets = Secrets(self._secret)
            try:
                self._mirror = Mirror(files.mirror, files.mirror_filing, secrets)
            except MirrorDamaged:
                files.renew_mirror()
                self._mirror = Mirror(files.mirror, files.mirror_filing, secrets)
            self._mirror_beside = MirrorBeside(files.mirror_beside, secrets)
            so_far_ms = max(self._journal.ran_until_ms(), self._mirror.ran_until_ms())
            self._running = RunningTime(so_far_ms, time.monotonic())
            self._memory = Memory.of(self._journal, self._running, rules)
            self._desk = Desk(self._mirror, self._journal, self._memory)
            self._journal_beside = Journal(files.journal_beside)
            self._desk_beside = Desk(self._mirror_beside, self._journal_beside, self._memory, writes=False)
            self._outbox.recover(so_far_ms)
            self._started_ms = so_far_ms
            self._reader = Reader(files.journal, self._mirror, self._desk, self._running)
            self._recall()
            if not files.unwritable:
                self._journal.checkpoint(so_far_ms)
        except (sqlite3.Error, StoreError):
            files.close()
            raise

    @property
    def salvaged(self) -> Salvaged | None:
        """What was read at the start of a journal that was found damaged."""
        return self._files.salvaged

    def start(self) -> None:
        """Starts the database threads, from the running loop."""
        self._writer.start()
        self._front.start()

    async def close(self) -> None:
        """Finishes what was handed in and closes the files; what the disk does not take in time is lost."""
        if self._writer.alive:  # else nobody would ever answer
            self._writer.do(self._write_all)
        beside_ended = await self._front.close(within_s=_CLOSE_S)
        if await self._writer.close(within_s=_CLOSE_S) and beside_ended:
            self._files.close()

    @property
    def alive(self) -> bool:
        """Whether the database threads run; waiting for a slow disk is running."""
        return self._writer.alive and self._front.alive

    def _mend(self, error: BaseException) -> bool:
        """On the database thread, after an error: renews what is damaged. Says whether that was done."""
        if isinstance(error, sqlite3.Error) and damaged(error):
            self._renew_journal()
            return True
        if not isinstance(error, MirrorDamaged):
            return False
        self._renew_mirror()
        self.mirrors_renewed += 1
        return True

    def _renew_journal(self) -> None:
        # Meanwhile the other thread decides by what can be read of the damaged one, and in memory.
        done_with = self._files.renew_journal(self._secret)
        with self._memory.lock:  # the other thread reads the journal under it
            self._go_on_with_journal()
        for connection in done_with:
            connection.close()

    def _go_on_with_journal(self) -> None:
        for part in (self._journal, self._reader):
            part.go_on(self._files.journal)
        self._outbox.go_on(self._files.outbox)
        self._journal_beside.go_on(self._files.journal_beside)

    def _renew_mirror(self) -> None:
        with self._mirror_stays:
            with self._memory.lock:  # the other thread reads the mirror under it
                self._files.renew_mirror()
                self._go_on_with_mirror()
            self._mirror.claim()
            self._mirror.bind(self._memory.service)
        self._recall()

    def _write_all(self) -> None:
        """What waits in memory, for as long as the disk takes it."""
        left = None
        while (waiting := self._desk.write_waiting()) and waiting != left:
            left = waiting

    def _go_on_with_mirror(self) -> None:
        self._mirror.go_on(self._files.mirror, self._files.mirror_filing)
        self._mirror_beside.read_on(self._files.mirror_beside)

    def _catch_up(self) -> int:
        """Goes on with the files once they can be written; writes what waits, returns how much still does."""
        if self._files.unwritable and self._files.writable_again():
            self._return_to_disk()
        return self._desk.write_waiting()

    def _return_to_disk(self) -> None:
        """Takes the files up again, which may be another gate's than what could be read at the start was."""
        with self._memory.lock:  # the other thread reads both under it
            self._files.reopen(self._secret)
            self._go_on_with_journal()
            self._go_on_with_mirror()
            with suppress(sqlite3.OperationalError):  # a full disk: they are ended at another start
                self._journal.end_questions(besides=self._memory.asked)
            self._secret = self._journal.secret()
            secrets = Secrets(self._secret)
            for mirror in (self._mirror, self._mirror_beside):
                mirror.renew(secrets)
            so_far_ms = max(self._journal.ran_until_ms(), self._mirror.ran_until_ms())
            skipped_ms = max(0, so_far_ms - self._started_ms)
            self._running.skip(skipped_ms)
            self._started_ms += skipped_ms
            self._memory.moved(secrets.digest, skipped_ms)
        self._mirror.claim()
        if self._memory.service:
            self._mirror.bind(self._memory.service)
        self._recall()

    # Scans

    def decide(self, scan: Scan, terms: Terms) -> Piece[Decided | Ask]:
        """Decides a scan and makes it durable, or says that the server has to be asked."""
        return self._front.do(scan, lambda desk: desk.decide(scan, terms))

    def note_question(self, ask: Ask, call: Window) -> Piece[None]:
        """Writes down that the server is being asked, in that call: nobody need wait for it."""
        return self._writer.do(lambda: self._desk.note(ask, call), urgent=True)

    def settle(self, ask: Ask, reply: Reply) -> Piece[Decided]:
        """Makes durable what came of a question, and lets the ticket go."""
        return self._front.do(ask.scan, lambda desk: desk.settle(ask, reply))

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Piece[Decided]:
        """Makes durable a scan on which nothing was decided."""
        return self._front.do(scan, lambda desk: desk.write_undecided(scan, verdict))

    def override(self, scan: Scan) -> Piece[Decided]:
        """Makes durable that an operator admitted a ticket, whatever the rules say."""
        return self._front.do(scan, lambda desk: desk.override(scan))

    async def recorded_by_server(self, seq: int, monotonic: float) -> bool:
        """Notes that the server has a scan after all: a late answer said so. It need not be uploaded.

        False if the server has that guest's check-in twice now, which is marked.
        """
        return await self._writer.do(lambda: self._outbox.acknowledge_one(seq, self._running.at(monotonic)))

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

    async def freeze(self, limit: int, at: Moment, *, mixed: bool = False) -> tuple[Row, ...]:
        """The next outbox rows to send, frozen, of one kind and one service; if the disk fails, from memory.

        Rows handed out before of which nothing was said since, as when the disk failed, may have arrived.
        """

        def freeze() -> tuple[Row, ...]:
            waiting = self._desk.write_waiting()
            try:
                self._outbox.recover(self._running.at(at.monotonic))
                rows = self._outbox.freeze(self._memory.service, limit, at, mixed=mixed)
            except sqlite3.Error:
                if not waiting:
                    raise
                rows = ()
            return rows or self._memory.freeze(limit, at)

        return await self._writer.do(freeze)

    async def acknowledge(self, rows: Sequence[Row], monotonic: float) -> None:
        """Notes that the server has these rows."""
        running_ms = self._running.at(monotonic)

        def acknowledged(entry: Entry) -> Entry:
            return entry._replace(acknowledged_ms=running_ms, kind=None)

        await self._note(rows, acknowledged, lambda rows: self._outbox.acknowledge(rows, running_ms))

    async def keep(self, rows: Sequence[Row]) -> None:
        """Notes that these rows have not arrived."""
        await self._note(rows, partial(_dispatched, sending=False), self._outbox.keep)

    async def lose(self, rows: Sequence[Row], monotonic: float) -> None:
        """Notes that these rows went out and were not answered."""
        running_ms = self._running.at(monotonic)
        lost = partial(_dispatched, sending=False, lost_ms=running_ms)
        await self._note(rows, lost, lambda rows: self._outbox.lose(rows, running_ms))

    async def park(self, rows: Sequence[Row], why: str) -> None:
        """Sends these rows no more without a person's word."""
        parked = partial(_dispatched, sending=False, parked=why)
        await self._note(rows, parked, lambda rows: self._outbox.park(rows, why))

    async def _note(
        self,
        rows: Sequence[Row],
        in_memory: Callable[[Entry], Entry],
        on_disk: Callable[[Sequence[Row]], None],
    ) -> None:
        """Notes what came of rows, wherever they are now."""

        def note() -> None:
            came = [
                replace(row, seq=self._journal.number_of(scan) or 0)
                for row, scan in self._memory.note(rows, in_memory)
            ]
            if there := [*(row for row in rows if row.seq > 0), *came]:
                on_disk(there)

        await self._writer.do(note)

    async def settle_lost(self, asked: float) -> dict[Lost, int]:
        """Decides on the lost rows by a whole download that was asked for at monotonic ``asked``."""

        def settle_lost() -> dict[Lost, int]:
            asked_ms = self._running.at(asked)
            return self._outbox.settle_lost(self._memory.service, asked_ms, self._mirror.shown)

        return await self._writer.do(settle_lost)

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
            self._memory.service = service
            if self._files.unwritable and self._mirror.note("service") != service:
                self._renew_mirror()  # it can't be emptied
            self._mirror.bind(service)
            self._recall()
            if self._journal.note("service") != service:
                with suppress(sqlite3.OperationalError):  # a full disk keeps it from a restart, and no more
                    self._journal.set_note("service", service)

        await self._writer.do(bind)

    async def set_service_types(self, types: frozenset[str], monotonic: float) -> None:
        """Tells the desk which ticket types the service lets in, asked for at that monotonic time."""

        def set_types() -> None:
            memory, read_ms = self._memory, self._running.at(monotonic)
            memory.service_types, memory.service_read_ms = types, read_ms
            with suppress(sqlite3.OperationalError):  # a full disk keeps them from a restart, and no more
                self._mirror.set_notes({"types": json.dumps(sorted(types)), "types_ms": read_ms})

        await self._writer.do(set_types)

    async def put(
        self, tickets: Sequence[Ticket], *, asked: float, run: int, tell: Callable[[Double], None] = _ignored
    ) -> None:
        """Writes downloaded rows; ``asked`` is the monotonic time at which they were asked for.

        Tells of the tickets among them that were checked in too often, once at this gate: each as soon as
        that is noted, since what comes after may fail.
        """
        asked_ms = self._running.at(asked)

        def write() -> tuple[int, tuple[Double, ...]]:
            """Writes some of the rows: all, unless they take long or scans come without end."""
            # In memory a reader, who may have the desks' memory locked, waits for whoever writes (memdb).
            halt = partial(self._writer.make_way, within=not self._files.mirror_in_memory)
            done = self._mirror.put(tickets, asked_ms=asked_ms, run=run, halt=halt)
            return done, self._desk.doubles(tickets[:done])

        while tickets:
            done, doubles = await self._writer.do(write)
            tickets = tickets[done:]
            for double in doubles:
                tell(double)
        await self._file_if_due()
        if self._mirror.crowded:
            await self.put_in_place()

    async def put_in_place(self) -> None:
        """Files the tickets that are new: those that are not have to be read again at the next start."""
        while await self._writer.do(self._mirror.place_piece):
            await self._file_if_due()

    async def _file_if_due(self) -> None:
        if self._mirror.checkpoint_due:
            await self._file()

    async def _file(self) -> None:
        """Moves what was downloaded from the WAL into the file: apart, as that waits for the disk twice."""

        def file() -> None:
            with self._mirror_stays:
                self._mirror.checkpoint()

        await self._writer.do_apart(file)

    async def remember(self, **notes: int | str | None) -> None:
        """Notes where downloads stand, all at once."""
        await self._writer.do(lambda: self._mirror.set_notes(notes))

    async def seen(self, run: int) -> int:
        """How many different tickets the full download ``run`` has seen."""
        return sum(
            [await self._writer.do(partial(self._mirror.seen, run, span)) for span in await self._spans()]
        )

    async def unseen(self, run: int) -> int:
        """How many present tickets the full download ``run`` did not see."""
        return sum(
            [await self._writer.do(partial(self._mirror.unseen, run, span)) for span in await self._spans()]
        )

    async def count(self) -> int:
        """How many tickets are present."""
        return sum([await self._writer.do(partial(self._mirror.count, span)) for span in await self._spans()])

    async def sweep(self, run: int) -> None:
        """Marks what the full download ``run`` did not see as absent."""
        for span in await self._spans():
            await self._writer.do(partial(self._mirror.sweep, run, span))

    async def _spans(self) -> tuple[Span, ...]:
        return await self._writer.do(self._mirror.spans)

    # Upkeep

    async def state(self) -> StoreState:
        """What the store holds now."""
        counts: list[Count] = []
        for kind in Kind:
            after: int | None = 0
            while after is not None:
                counts.append(await self._writer.do(partial(self._outbox.count, kind, after)))
                after = counts[-1].last
        self._last_state = await self._writer.do(partial(self._state, counts))
        return self._last_state

    async def state_for_people(self) -> StoreState:
        """The same; while the disk keeps the store waiting, what it held when it was last asked."""
        if self._front.holds_others_up and self._last_state is not None:
            return self._last_state
        return await self.state()

    async def give_way(self) -> None:
        """Waits while a scan is being decided, but not for ever: a scanner gone mad leaves no pause.

        What takes long on the loop asks between two pieces of it.
        """
        await asyncio.sleep(0)  # all that waits for the loop has its turn, a scan among it
        if not self._front.is_quiet:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAY_S):
                    await self._front.quiet()

    async def health(self) -> Health:
        """What hampers the lanes now."""
        return await self._writer.do(
            lambda: Health(self._catch_up(), bool(self._mirror.note("complete")), self._files.unwritable)
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
            waiting = self._catch_up()
            if not self._files.unwritable:
                self._journal.checkpoint(self._running.at(time.monotonic()))
            return waiting

        waiting = await self._writer.do(keep)
        if not self._files.unwritable:
            await self._file()
        return waiting

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
            await self._file()
        while await self._writer.do(self._journal.wipe_piece):
            await self._writer.do(lambda: self._journal.checkpoint(self._running.at(time.monotonic())))
        await self._writer.do(self._files.forget_kept)
        await self._writer.do(lambda: self._mirror.bind(self._memory.service))
        for part in (self._mirror, self._journal):
            await self._writer.do(part.compact)
        return waiting

    def _forget(self, why: str, at: Moment, *, lose_outbox: bool) -> int:
        """The moment of a purge, between two scans. If the power goes in it, the mirror empties itself."""
        if self._desk.write_waiting():
            raise StoreError("scans wait in memory: the disk fails")
        size = self._outbox.size()
        waiting = size.check_ins + size.others
        if waiting and not lose_outbox:
            return waiting
        # A mirror under another secret empties itself: the journal's has to change first.
        secret = self._secret = self._journal.forget(self._running.at(time.monotonic()), why, at)
        self._mirror.forget()
        with self._memory.lock:
            for mirror in (self._mirror, self._mirror_beside):
                mirror.renew(Secrets(secret))
        self._recall()
        return waiting

    def _recall(self) -> None:
        """The service and its types outlive a restart without a network."""
        memory = self._memory
        memory.service = memory.service or self._journal.note("service") or ""
        memory.service_types = frozenset(json.loads(self._mirror.note("types") or "[]"))
        memory.service_read_ms = self._mirror.note("types_ms") or 0

    def _state(self, outbox: Sequence[Count]) -> StoreState:
        note = self._mirror.note
        return StoreState(
            service=self._memory.service or None,
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
            outbox=self._outbox.size_of(outbox),
            undurable=self._desk.write_waiting(),
        )


def _dispatched(entry: Entry, **changes: Any) -> Entry:
    """An entry of which something is known on its way."""
    assert entry.dispatch is not None
    return entry._replace(dispatch=replace(entry.dispatch, **changes))
