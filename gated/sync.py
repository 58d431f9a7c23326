"""Scans up, tickets down: what the jobs do, one run at a time each.

- The mark of the next delta comes from the server's clock, never from ours, and moves when all pages came.
- A full download is usable from its first page, goes on where a power cut stopped it, and alone may find that
  a ticket is gone: only if the server's total held still, and never many at once without a person's word.
- Whether the upload works has no say in whether the delta runs.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gated import log
from gated.api.client import Dated, TicketScanApi
from gated.api.wire import Page, Service, UploadRow, choose_service
from gated.asking import Asker
from gated.clock import Clock
from gated.core.outbox import Kind, Row
from gated.errors import ApiError, ApiRefused, GatedError
from gated.store import Store

# Rows of one upload (Ticket Scan API, "Post Upload", gives no limit).
BATCH = 50
# The delta asks again for this long before its mark: a server's rows may become visible a little late.
_OVERLAP = timedelta(seconds=120)
# So many tickets may vanish in one full download without a person's word: 1 %, and at least 10.
_VANISHED_SHARE, _VANISHED_FEW = 0.01, 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download has come."""

    page: int
    pages: int | None
    tickets: int


OnProgress = Callable[[Progress], None]


class Sync:
    """The talk with the API, but for single scans."""

    def __init__(
        self, api: TicketScanApi, store: Store, asker: Asker, clock: Clock, wanted: str | None
    ) -> None:
        """``wanted`` is the service's uuid or name; None takes the only one there is."""
        self._api = api
        self._store = store
        self._asker = asker
        self._clock = clock
        self._wanted = wanted
        self._log = log.get("sync")
        self._uploading = asyncio.Lock()
        self._downloading = asyncio.Lock()
        self.service: Service | None = None
        self.trouble: GatedError | None = None
        """Why the API can't be used, or None."""

    async def connect(self) -> Service:
        """Reads the services, chooses one, and makes the mirror its mirror. Raises ApiError."""
        try:
            answer = await self._api.services()
            service = choose_service(answer.value, self._wanted)
        except ApiError as error:
            self._failed(error)
            raise
        self._learn(answer)
        await self._store.bind(service.id)
        await self._store.set_service_types(service.type_ids, answer.sent)
        if self.service is None or self.service.id != service.id:
            self._log.info("service", id=service.id, name=service.name, setup=service.setup)
        self.service = service
        self._asker.service = service.id
        return service

    async def upload(self) -> int:
        """Sends the outbox, oldest check-ins first; returns how many went. Raises ApiError, StoreError."""
        async with self._uploading:
            return await self._upload()

    async def _upload(self) -> int:
        sent = 0
        service = self.service or await self.connect()
        while rows := await self._store.freeze(BATCH, self._clock.now()):
            try:
                await self._send(service, rows)
            except ApiError as error:
                self._failed(error)
                raise
            sent += len(rows)
        if sent:
            self._log.info("uploaded", scans=sent)
        return sent

    async def _send(self, service: Service, rows: Sequence[Row]) -> None:
        """Sends rows of one kind; each is acknowledged as soon as the server has it."""
        if rows[0].kind is not Kind.CHECK_OUT:
            self._learn(await self._api.upload(service.id, [_upload_row(row) for row in rows]))
            await self._store.acknowledge(rows, self._clock.now().monotonic)
            return
        for row in rows:
            # Whatever the server says of it, it has been told: 210 if an answer was lost the last time.
            self._learn(await self._api.check_out(service.id, row.barcode_id))
            await self._store.acknowledge((row,), self._clock.now().monotonic)

    async def delta(self) -> int:
        """Fetches what has changed since the mark; returns the rows read. Raises ApiError, StoreError.

        Services are read with it. Without a mark there is nothing to compare with: the full download is due.
        """
        async with self._downloading:
            return await self._delta()

    async def _delta(self) -> int:
        service = await self.connect()
        state = await self._store.state()
        if state.mark is None:
            return 0
        tickets, page, mark = 0, 1, None
        while True:
            answer = await self._page(service.id, page, state.mark)
            mark = mark or _mark(answer)
            await self._store.put(answer.value.tickets, asked=answer.sent, run=0)
            tickets += len(answer.value.tickets)
            if answer.value.next_page is None:
                break
            page = answer.value.next_page
        if mark is not None:
            await self._store.remember(mark=mark)
        if tickets:
            self._log.info("delta", tickets=tickets)
        return tickets

    async def full(self, progress: OnProgress | None = None, *, accept_removals: bool = False) -> int:
        """Fetches every ticket of the service; returns how many came. Raises ApiError, StoreError.

        With ``accept_removals`` as many tickets may be gone as will.
        """
        async with self._downloading:
            return await self._full(progress, accept_removals=accept_removals)

    async def _full(self, progress: OnProgress | None, *, accept_removals: bool) -> int:
        service = await self.connect()
        run = await self._begin()
        tickets = 0
        while True:
            answer = await self._page(service.id, run.page, None)
            page = answer.value
            run.saw(page.total_items, _mark(answer))
            await self._store.put(page.tickets, asked=answer.sent, run=run.number)
            tickets += len(page.tickets)
            if progress is not None:
                progress(Progress(run.page, page.total_pages, tickets))
            if page.next_page is None:
                break
            run.page = page.next_page
            await self._store.remember(run_page=run.page, run_mark=run.mark, run_total=run.total)
        await self._end(run, accept_removals=accept_removals)
        self._log.info("full_download", tickets=tickets, stable=run.stable)
        return tickets

    async def probe(self) -> None:
        """Finds out whether the API answers, and keeps the connection for single scans warm."""
        try:
            answer = await self._api.probe()
        except ApiError as error:
            self._failed(error)
        else:
            self._learn(answer)
            self._asker.answered()
            if self.service is None:
                await self.connect()

    async def _page(self, service: str, number: int, since: int | None) -> Dated[Page]:
        try:
            answer = await self._api.page(service, number, since)
        except ApiError as error:
            self._failed(error)
            raise
        self._learn(answer)
        unreadable = sum(1 for ticket in answer.value.tickets if ticket.unreadable)
        if answer.value.set_aside or unreadable or answer.value.odd:
            self._log.warning(
                "bad_rows",
                page=number,
                set_aside=answer.value.set_aside,
                unreadable=unreadable,
                odd=answer.value.odd,
            )
        return answer

    async def _begin(self) -> "_Run":
        """The full download that was cut short, or a new one."""
        state = await self._store.state()
        if state.run_page:
            return _Run(state.run, state.run_page, state.run_mark, state.run_total)
        await self._store.remember(run=state.run + 1, run_page=1, run_mark=None, run_total=None)
        return _Run(state.run + 1)

    async def _end(self, run: "_Run", *, accept_removals: bool) -> None:
        unseen = await self._store.unseen(run.number)
        present = await self._store.count()
        few = unseen <= max(_VANISHED_FEW, present * _VANISHED_SHARE)
        if unseen and run.stable and (accept_removals or (few and run.total)):
            await self._store.sweep(run.number)
            self._log.info("tickets_gone", tickets=unseen)
        elif unseen:
            self._log.warning("tickets_missing", tickets=unseen, stable=run.stable, hint=_MISSING)
        await self._store.remember(complete=1, mark=run.mark, run_page=0, tickets=await self._store.count())

    def _learn(self, answer: Dated[Any]) -> None:
        """The API has answered: that, and what time it is there."""
        if answer.date is not None:
            self._clock.learn(answer.date, answer.received)
        if self.trouble is not None:
            self._log.info("api_back")
        self.trouble = None

    def _failed(self, error: ApiError) -> None:
        """The API has not done what was asked; the log is told once for each kind of trouble."""
        if error.retry and not isinstance(error, ApiRefused):
            self._asker.did_not_answer()
        if type(self.trouble) is not type(error):
            self._log.warning("api_trouble", error=str(error), hint=error.hint)
        self.trouble = error


@dataclass(slots=True)
class _Run:
    """A full download on its way."""

    number: int
    page: int = 1
    mark: int | None = None
    total: int | None = None
    stable: bool = True

    def saw(self, total: int | None, mark: int | None) -> None:
        """Takes in a page's total, and the first page's mark."""
        if self.page == 1:
            self.total, self.mark = total, mark
        self.stable = self.stable and total is not None and total == self.total


_MISSING = "If the organiser has removed them: gated sync --full --accept-removals"


def _mark(answer: Dated[Page]) -> int | None:
    """The mark of a delta that covers everything since this page was asked for."""
    return None if answer.date is None else int((answer.date - _OVERLAP).timestamp())


def _upload_row(row: Row) -> UploadRow:
    return UploadRow(row.barcode_id, row.checked_in_time, row.status_code, row.status_message)
