"""Tickets down: the full download, and the delta since then.

- The mark of the next delta comes from the server's clock, never from ours, and moves when all pages came.
- A full download is usable from its first page, goes on where a power cut stopped it, and alone may find that
  a ticket is gone: only if the server's total held still, and two in a row did not show the ticket, and never
  many at once without a person's word.
"""

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

from gated import log
from gated.api.client import Dated
from gated.api.wire import Page
from gated.core.outbox import Lost
from gated.errors import ApiError, DownloadUnstable
from gated.store import Double
from gated.sync.link import Link

# The delta asks again for this long before its mark: a server's rows may become visible a little late.
_OVERLAP = timedelta(seconds=120)
# After so many unstable full downloads the last is taken as it is.
_UNSTABLE_RUNS = 3
# So many tickets may vanish in one full download without a person's word: 1 %, and at least 10.
_VANISHED_SHARE, _VANISHED_FEW = 0.01, 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download has come."""

    page: int
    pages: int | None
    tickets: int


OnProgress = Callable[[Progress], None]


class Downloads:
    """Brings the mirror up to date, one run at a time."""

    def __init__(self, link: Link, run_soon: Callable[[str], None]) -> None:
        """``run_soon`` is called with the job that a download has found to be due: ``upload``, ``full``."""
        self._link = link
        self._store = link.store
        self._run_soon = run_soon
        self._log = log.get("sync")
        self._downloading = asyncio.Lock()
        self._ahead: asyncio.Task[Dated[Page]] | None = None
        self._missed_by: int | None = None
        """The full download that found tickets missing, if it was the last."""

    async def delta(self) -> int:
        """Fetches what has changed since the mark; returns the rows read. Raises ApiError, StoreError.

        Services are read with it. Without a mark there is nothing to compare with: the full download is due.
        """
        async with self._downloading:
            return await self._delta()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While inside, nothing comes down."""
        async with self._downloading:
            yield

    async def _delta(self) -> int:
        service = await self._link.connect()
        state = await self._store.state()
        self._link.alarm_if(state.mark is None and state.complete, "no_delta", hint=_NO_DELTA)
        if state.mark is None:
            return 0
        tickets, first, bad = 0, None, _BadRows()
        async for answer in self._pages(service.id, 1, state.mark):
            first = first or answer
            bad.count(answer.value)
            await self._put(answer, run=0)
            tickets += len(answer.value.tickets)
        assert first is not None, "there is a first page, or an error"
        if (mark := _mark(first)) is not None:
            await self._store.remember(mark=mark)
            if mark + _OVERLAP.total_seconds() < state.mark:
                self._log.warning(
                    "server_clock_set_back"
                )  # what changed meanwhile may lie before the old mark
                self._run_soon("full")
        await self._settle_lost(first.sent)
        if bad.any and "bad_rows" not in self._link.alarms:
            self._link.alarm("bad_rows", **asdict(bad))
        if tickets:
            self._log.info("delta", tickets=tickets)
        if state.agreed and service.total_available not in (None, await self._store.count()):
            self._log.info("totals_disagree", server=service.total_available)
            self._run_soon("full")
        return tickets

    async def full(self, progress: OnProgress | None = None, *, accept_removals: bool = False) -> int:
        """Fetches every ticket of the service; returns how many came. Raises ApiError, StoreError.

        With ``accept_removals`` as many tickets may be gone as will.
        """
        async with self._downloading:
            tickets = await self._full(progress, accept_removals=accept_removals)
        give_memory_back()
        return tickets

    async def _full(self, progress: OnProgress | None, *, accept_removals: bool) -> int:
        service = await self._link.connect()
        run = await self._begin()
        tickets, bad = 0, _BadRows()
        async for answer in self._pages(service.id, run.page, None):
            page = answer.value
            run.saw(answer)
            bad.count(page)
            await self._put(answer, run=run.number)
            tickets += len(page.tickets)
            if progress is not None:
                progress(Progress(run.page, page.total_pages, tickets))
            if page.next_page is not None:
                run.page = page.next_page
                await self._store.remember(
                    run_page=run.page, run_mark=run.mark, run_total=run.total, run_stable=int(run.stable)
                )
        await self._store.put_in_place()
        self._link.alarm_if(bad.any, "bad_rows", **asdict(bad))
        await self._end(run, accept_removals=accept_removals)
        self._log.info("full_download", tickets=tickets)
        return tickets

    async def _pages(self, service: str, number: int, since: int | None) -> AsyncIterator[Dated[Page]]:
        """The pages from ``number`` on: while one is written, the next is fetched.

        Whoever stops in between leaves that call to its end, since it must not be cancelled.
        """
        answer = await self._page(service, number, since)
        while (following := answer.value.next_page) is not None:
            self._ahead = asyncio.create_task(self._page(service, following, since))
            self._ahead.add_done_callback(_note_error)
            yield answer
            answer, self._ahead = await self._ahead, None  # or its tickets were kept until the next download
        yield answer

    async def _page(self, service: str, number: int, since: int | None) -> Dated[Page]:
        try:
            answer = await self._link.api.page(service, number, since)
        except ApiError as error:
            self._link.failed(error)
            raise
        self._link.learn(answer)
        return answer

    async def _put(self, answer: Dated[Page], *, run: int) -> None:
        """Writes a page, and raises the alarm about its tickets that were used too often."""
        await self._store.put(answer.value.tickets, asked=answer.sent, run=run, tell=self._tell)

    def _tell(self, double: Double) -> None:
        """Raises the alarm about a ticket that was used too often, once of it here."""
        server = double.ticket.last_checked_in
        times = [time.isoformat(timespec="seconds") for time in double.here]
        self._link.alarm("double_entry", here=times, server=server and server.isoformat())

    async def _begin(self) -> "_Run":
        """The full download that was cut short, or a new one."""
        state = await self._store.state()
        if state.run_page:
            return _Run(state.run, state.run_page, state.run_mark, state.run_total, state.run_stable)
        await self._store.remember(run=state.run + 1, run_page=1, run_mark=None, run_total=None, run_stable=1)
        return _Run(state.run + 1)

    async def _end(self, run: "_Run", *, accept_removals: bool) -> None:
        """Takes a full download for what it is worth.

        With a total that held still, and as many different tickets, what it did not see is gone. Else some
        may have slipped through between its pages: it is fetched again, and the third time taken as it is,
        with nothing removed. Raises DownloadUnstable.
        """
        stable = run.stable and run.total == await self._store.seen(run.number)
        state = await self._store.state()
        unstable = 0 if stable else state.unstable + 1
        if unstable and unstable < _UNSTABLE_RUNS:
            await self._store.remember(run_page=0, unstable=unstable)
            raise DownloadUnstable(f"the tickets changed while they were fetched, for the {unstable}. time")
        self._link.alarm_if(bool(unstable), "merged", hint=_MERGED)
        if stable:
            await self._sweep(run, accept_removals=accept_removals)
        tickets = await self._store.count()
        service = self._link.service
        agreed = service is not None and service.total_available == tickets
        await self._store.remember(
            complete=1, mark=run.mark, run_page=0, unstable=0, tickets=tickets, agreed=int(agreed)
        )
        if run.asked is not None:
            await self._settle_lost(run.asked)

    async def _sweep(self, run: "_Run", *, accept_removals: bool) -> None:
        """Takes away what is gone. What one download has missed, another has to miss as well.

        A ticket sold and another removed between two pages leave the total as it is, and a third can slip
        through.
        """
        unseen = await self._store.unseen(run.number)
        most = max(_VANISHED_FEW, await self._store.count() * _VANISHED_SHARE)
        few = bool(run.total) and unseen <= most
        doubtful = unseen > 0 and not few and not accept_removals
        self._link.alarm_if(doubtful, "tickets_missing", tickets=unseen, hint=_MISSING)
        missed_before = self._missed_by == run.number - 1
        self._missed_by = run.number if unseen else None
        if accept_removals or (few and missed_before):
            await self._store.sweep(run.number if accept_removals else run.number - 1)
            self._log.info("tickets_gone", left=await self._store.count())
        elif few and unseen:
            self._run_soon("full")

    async def _settle_lost(self, asked: float) -> None:
        """Decides on uploads that were never answered, by a whole download asked for at ``asked``."""
        counts = await self._store.settle_lost(asked)
        if any(counts.values()):
            self._log.info("lost_settled", **{fate.value: count for fate, count in counts.items()})
        if counts[Lost.UNCERTAIN]:
            self._link.alarm("uncertain", scans=counts[Lost.UNCERTAIN], hint="gated outbox list")
        if counts[Lost.AGAIN]:
            self._run_soon("upload")


@dataclass(slots=True)
class _Run:
    """A full download on its way. ``asked`` is when its first page was asked for, if in this start."""

    number: int
    page: int = 1
    mark: int | None = None
    total: int | None = None
    stable: bool = True
    asked: float | None = None

    def saw(self, answer: Dated[Page]) -> None:
        """Takes in a page's total, and the first page's mark."""
        total = answer.value.total_items
        if self.page == 1:
            self.total, self.mark, self.asked = total, _mark(answer), answer.sent
        self.stable = self.stable and total is not None and total == self.total


@dataclass(slots=True)
class _BadRows:
    """Rows of a download that are not as they should be."""

    set_aside: int = 0
    unreadable: int = 0
    odd: int = 0

    @property
    def any(self) -> bool:
        return bool(self.set_aside or self.unreadable or self.odd)

    def count(self, page: Page) -> None:
        self.set_aside += page.set_aside
        self.unreadable += sum(1 for ticket in page.tickets if ticket.unreadable)
        self.odd += page.odd


_MERGED = "Some tickets may be missing until the next one."
_NO_DELTA = "The server sends no Date: changes come hourly only."
_MISSING = "If the organiser has removed them: gated sync --full --accept-removals"


def _note_error(call: "asyncio.Task[Dated[Page]]") -> None:
    """The error of a call that nobody waits for any more has been told by then; asyncio need not log it."""
    if not call.cancelled():
        call.exception()


def _mark(answer: Dated[Page]) -> int | None:
    """The mark of a delta that covers everything since this page was asked for."""
    return None if answer.date is None else int((answer.date - _OVERLAP).timestamp())


def give_memory_back() -> None:
    """Gives free memory back to the system, which glibc keeps in case it is needed again (malloc_trim(3)).

    After a download that is more than a megabyte, and takes under a millisecond on a PC. Other C libraries
    have no such call, and do without.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
