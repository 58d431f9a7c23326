"""Scans up: the outbox, batch by batch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gated import log
from gated.api.wire import UploadRow
from gated.core import upload
from gated.core.outbox import Kind, Row
from gated.core.upload import After, Plan
from gated.errors import ApiError, ApiRefused
from gated.sync.link import Link

# Rows of one upload (Ticket Scan API, "Post Upload", gives no limit).
BATCH = 50


class Uploads:
    """Sends what the outbox holds, one run at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._store = link.store
        self._log = log.get("sync")
        self._batch = BATCH
        self._unproved = False  # whether the last batch had rows refused, and none accepted to prove them bad
        self._running = asyncio.Lock()

    async def run(self) -> int:
        """Sends the outbox, oldest check-ins first; returns how many went. Raises ApiError, StoreError."""
        async with self._running:
            return await self._run()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While inside, nothing goes up."""
        async with self._running:
            yield

    async def _run(self) -> int:
        sent = 0
        if self._link.service is None:
            await self._link.connect()
        while rows := await self._store.freeze(self._batch, self._link.clock.now(), mixed=self._unproved):
            delivered = await self._deliver(rows)
            sent += delivered
            if not delivered:
                break
        if sent:
            self._log.info("uploaded", scans=sent)
        return sent

    async def _deliver(self, rows: Sequence[Row]) -> int:
        """Sends rows of one call and one service; returns how many of them need not be sent any more.

        Raises ApiError if the server does not take them now, or may have taken them without saying so.
        """
        replayed = rows[0].kind is Kind.CHECK_OUT
        plan, delivered = upload.begin(rows, 1 if replayed else self._batch), 0
        while group := plan.next:
            try:
                await (self._replay(group[0]) if replayed else self._upload(group))
            except ApiError as error:
                plan, error_ends_it = await self._refused(plan, error)
                if error_ends_it:
                    await self._leave(rows, plan)
                    raise
            else:
                await self._store.acknowledge(group, self._link.clock.now().monotonic)
                plan = upload.accepted(plan)
                delivered += len(group)
        await self._leave(rows, plan)
        return delivered + len(plan.parked)

    async def _upload(self, rows: Sequence[Row]) -> None:
        uploaded = [
            UploadRow(row.barcode_id, row.checked_in_time, row.status_code, row.status_message)
            for row in rows
        ]
        self._link.learn(await self._link.api.upload(rows[0].service, uploaded))

    async def _replay(self, row: Row) -> None:
        """Sends a check-out as the call that it missed. Whatever code it is answered with, it was told."""
        self._link.learn(await self._link.api.check_out(row.service, row.barcode_id))

    async def _refused(self, plan: Plan, error: ApiError) -> tuple[Plan, bool]:
        """What an error means for a plan, and whether it is the end of it."""
        group = plan.next
        if error.may_be_done:
            await self._store.lose(group, self._link.clock.now().monotonic)
            plan = upload.lost(plan)
        if not isinstance(error, ApiRefused):
            self._link.failed(error)
            return plan, True
        self._batch = upload.size_after(error.status, len(group), self._batch)
        plan, after = upload.refused(plan, error.status)
        if after is After.GO_ON:
            return plan, False
        self._link.failed(error)
        if after is After.SERVICE_REFUSES:
            self._link.alarm("service_refuses", status=error.status, error=str(error))
        return plan, True

    async def _leave(self, rows: Sequence[Row], plan: Plan) -> None:
        """At the end of a plan: what is parked, and what goes again another time."""
        refused = 0 if plan.parked else len(plan.refused)
        self._unproved = bool(refused)
        self._link.alarm_if(self._unproved, "scans_refused", scans=refused, hint="gated outbox list")
        if plan.parked:
            await self._store.park(plan.parked, "refused")
            self._link.alarm("parked", scans=len(plan.parked), hint="gated outbox list")
        again = {row.seq for group in plan.groups for row in group}
        again |= {row.seq for row in plan.refused if row not in plan.parked}
        await self._store.keep([row for row in rows if row.seq in again])
