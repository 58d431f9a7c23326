"""The link to the API: the chosen service, whether the API answers, its time, and what to look at.

Uploads and downloads go over it, and tell it what came of each call.
"""

import asyncio
from typing import Any

from gated import log
from gated.api.client import Dated, TicketScanApi
from gated.api.wire import Service, choose_service
from gated.asking import Asker
from gated.clock import Clock
from gated.errors import ApiError, ApiRefused, GatedError, ServiceNotChosen, StoreError
from gated.store import Store


class Link:
    """The talk with the API, as far as all of it has in common."""

    def __init__(
        self, api: TicketScanApi, store: Store, asker: Asker, clock: Clock, wanted: str | None
    ) -> None:
        """``wanted`` is the service's uuid or name; None takes the only one there is."""
        self.api = api
        self.store = store
        self.clock = clock
        self._asker = asker
        self._wanted = wanted
        self._log = log.get("sync")
        self.service: Service | None = None
        self.trouble: GatedError | None = None
        """Why the API can't be used, or None."""
        self.alarms: dict[str, dict[str, object]] = {}
        """What a person should look at, by kind, since the gate was started."""
        self._journalling: set[asyncio.Task[None]] = set()
        asker.alarm = self.alarm

    async def connect(self) -> Service:
        """Reads the services, chooses one, and makes the mirror its mirror. Raises ApiError.

        Once chosen it is never swapped for another: while it is missing nothing is asked of the server.
        """
        try:
            answer = await self.api.services()
            service = choose_service(answer.value, self._wanted or await self._remembered())
        except ServiceNotChosen as error:
            self._asker.service = None
            self.failed(error)
            raise
        except ApiError as error:
            self.failed(error)
            raise
        self.learn(answer)
        await self._look_at(service)
        await self.store.bind(service.id)
        await self.store.set_service_types(service.type_ids, answer.sent)
        if self.service is None or self.service.id != service.id:
            self._log.info("service", id=service.id, name=service.name, setup=service.setup)
        self.service = service
        self._asker.service = service.id
        return service

    async def _remembered(self) -> str | None:
        """The service chosen before, in this start or an earlier one."""
        return (await self.store.state()).service

    async def _look_at(self, service: Service) -> None:
        """Raises or ends the alarms about the scan user and the service. None of them refuses a guest."""
        user = await self.api.login()
        self.alarm_if(not user.active, "user_inactive", hint="Ask the organiser: is this scan user active?")
        self.alarm_if(user.two_users, "user_doubtful", hint="Ask the organiser: whose is this scan user?")
        lacking = None if service.permissions is None else {"checkin", "checkout"} - service.permissions
        self.alarm_if(bool(lacking), "permissions_lacking", permissions=sorted(lacking or ()))
        renewal = self.api.early_renewal_error
        self.alarm_if(renewal is not None, "login_not_renewed", error=str(renewal))
        changed = self.service is not None and self.service.setup != service.setup
        self.alarm_if(changed, "service_setup_changed", setup=service.setup)

    def alarm_if(self, holds: bool, what: str, **detail: object) -> None:
        """Raises an alarm while it holds, once for each ``detail``, and ends it when it does not."""
        if not holds:
            self.alarms.pop(what, None)
        elif self.alarms.get(what) != detail:
            self.alarm(what, **detail)

    async def probe(self) -> None:
        """Finds out whether the API answers, and keeps the connection for single scans warm.

        Raises ApiRefused where the server says when to come back.
        """
        try:
            answer = await self.api.probe(self.service.id if self.service else "")
        except ApiError as error:
            self.failed(error)
            if isinstance(error, ApiRefused) and error.retry_after_s is not None:
                raise  # it asks to be left alone for so long
        else:
            self.learn(answer)
            self._asker.answered()
            if self.service is None:
                await self.connect()

    def alarm(self, what: str, **detail: object) -> None:
        """Something that a person should look at: in the log, in the status, and once in the journal."""
        self._log.error("alarm", what=what, **detail)
        if self.alarms.get(what) != detail:
            task = asyncio.create_task(self._journal(what, detail), name=f"alarm {what}")
            self._journalling.add(task)  # the loop itself would let it go
            task.add_done_callback(self._journalling.discard)
        self.alarms[what] = detail

    async def _journal(self, what: str, detail: dict[str, object]) -> None:
        why = ", ".join(f"{name}: {value}" for name, value in detail.items())
        try:
            await self.store.occurred("alarm", None, what, why, self.clock.now())
        except StoreError as error:
            self._log.error("journal_failed", error=str(error), hint=error.hint)

    def learn(self, answer: Dated[Any]) -> None:
        """The API has answered: that, and what time it is there."""
        if answer.date is not None:
            self.clock.learn(answer.date, answer.received)
        if self.trouble is not None:
            self._log.info("api_back")
        self.trouble = None

    def failed(self, error: ApiError) -> None:
        """The API has not done what was asked; the log is told once for each kind of trouble."""
        if error.retry and not isinstance(error, ApiRefused):
            self._asker.did_not_answer()
        if type(self.trouble) is not type(error):
            self._log.warning("api_trouble", error=str(error), hint=error.hint)
        self.trouble = error
