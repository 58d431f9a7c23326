"""One server and its gates in virtual time: the real talk, store and client, without sockets and threads.

The server lags, loses answers before and after the work, and answers late; the power goes in mid-request.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import formatdate
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock
from uuid import UUID

import httpx

from gated.api.simulator import Endpoint, Event, Fault, Habits, Service, Simulator, UploadedScan
from gated.api.simulator import Ticket as ServerTicket
from gated.api.simulator.answers import Request, route
from gated.api.simulator.rules import left
from gated.asking import AskingRules
from gated.core.scan import Direction, TimeTrust
from gated.core.verdict import Reason
from gated.errors import ApiError
from gated.store import Decided, DeskRules, Double
from gated.store.database import Connection, open_database
from gated.store.writer import Writer
from tests.sync.rig import DAY, ENTRY, Gate, GateClock, Setup
from tests.virtual_time import VirtualLoop

T = TypeVar("T")

NOON = datetime(2027, 7, 16, 12, tzinfo=UTC).timestamp()
_AGREE_WITHIN = 40  # rounds of the jobs
# Which scan a call is about: a task inherits it.
_scan: ContextVar[str] = ContextVar("scan")


class Trouble(StrEnum):
    """What befalls the next request of a gate."""

    REFUSED = "refused"
    LOST_BEFORE = "lost before"
    LOST_AFTER = "lost after"
    BROKEN_BEFORE = "broken before"
    BROKEN_AFTER = "broken after"
    NOT_SENT = "not sent"
    LATE_BEFORE = "late, done at the end"
    LATE_AFTER = "late, done at once"
    POWER_CUT_BEFORE = "power cut before"
    POWER_CUT_AFTER = "power cut after"


_FAULTS = {
    Trouble.REFUSED: Fault.STATUS_429,
    Trouble.BROKEN_BEFORE: Fault.STATUS_500,
    Trouble.BROKEN_AFTER: Fault.STATUS_500_AFTER,
}
_LATE_S = 3.0


class PowerCut(BaseException):
    """The gate's power goes, this very moment."""


class AtOnce(Writer):
    """The database thread's work, done on the spot."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def alive(self) -> bool:
        return not self._closed

    def do(self, work: Callable[[], T], *, urgent: bool = False) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.set_result(work())
        return future

    async def close(self) -> None:
        self._closed = True


@dataclass
class VirtualTime:
    """What all clocks go by: the loop's time, which is 1000 s at noon."""

    loop: VirtualLoop

    def monotonic(self) -> float:
        return self.loop.time()

    def wall(self) -> float:
        return NOON + self.loop.time() - 1000


class Clock(GateClock):
    """A gate's clock; one that does not know the time takes it from the server."""

    def learn(self, server: datetime, monotonic: float) -> None:
        if self.trust is TimeTrust.UNKNOWN:
            self.off = server.timestamp() - self.time.wall()
            self.trust = TimeTrust.ESTIMATED


@dataclass
class LaggingEvent(Event):
    """Takes uploads at once and counts them ``lag_s`` later, as a server with a queue does."""

    lag_s: float = 0.0
    from_gate: str = ""
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Check-ins counted, by gate and barcode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._queue: list[tuple[float, str, list[UploadedScan], bool]] = []

    def upload(self, scans: Any, *, deduplicate: bool = False) -> None:
        self._queue.append((self.clock() + self.lag_s, self.from_gate, list(scans), deduplicate))
        self.work()

    def work(self, *, at_once: bool = False) -> None:
        """Counts what is due."""
        due = [each for each in self._queue if at_once or each[0] <= self.clock()]
        self._queue = [each for each in self._queue if each not in due]
        for _, gate, scans, deduplicate in due:
            before = len(self._movements)
            super().upload(scans, deduplicate=deduplicate)
            self.credit(gate, before)

    def credit(self, gate: str, before: int) -> None:
        """Notes whose the check-ins are that were counted since there were ``before`` movements."""
        self.counted.update((gate, each.barcode_id) for each in self._movements[before:] if each.checked_in)

    @property
    def counted_so_far(self) -> int:
        return len(self._movements)


class Wire(httpx.AsyncBaseTransport):
    """From one gate's client straight into the server."""

    def __init__(self, world: "World", gate: str) -> None:
        self._world = world
        self._gate = gate
        self.troubles: list[Trouble] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        trouble = self.troubles.pop(0) if self.troubles else None
        match trouble:
            case Trouble.NOT_SENT:
                raise httpx.ConnectError("as planned")
            case Trouble.LOST_BEFORE:
                raise httpx.RemoteProtocolError("as planned")
            case Trouble.POWER_CUT_BEFORE:
                raise PowerCut
            case Trouble.LATE_BEFORE:
                await asyncio.sleep(_LATE_S)
        response = await self._carry_out(request, _FAULTS.get(trouble) if trouble else None)
        match trouble:
            case Trouble.LOST_AFTER:
                raise httpx.RemoteProtocolError("as planned")
            case Trouble.POWER_CUT_AFTER:
                raise PowerCut
            case Trouble.LATE_AFTER:
                await asyncio.sleep(_LATE_S)
        return response

    async def _carry_out(self, request: httpx.Request, fault: Fault | None) -> httpx.Response:
        headers = Message()
        for name, value in request.headers.items():
            headers[name] = value
        asked = Request(request.method, request.url.path, headers, await request.aread())
        server, event = self._world.server, self._world.event
        if fault is not None:
            server.faults.add(Endpoint.ANY, fault)
        event.work()
        event.from_gate, before = self._gate, event.counted_so_far
        answer, _ = server.respond(asked)
        endpoint = route(asked)[0]
        if endpoint is Endpoint.CHECKIN and event.counted_so_far > before:
            event.credit(self._gate, before)
            self._world.called.add(_scan.get())
        if endpoint is Endpoint.BARCODES and answer.status == 200:
            self._world.tell(self._gate)
        dated = [] if server.habits.no_date_header else [("Date", formatdate(server.now(), usegmt=True))]
        return httpx.Response(answer.status, headers=[*dated, *answer.headers], content=answer.body)


@dataclass
class Told:
    """What the server has told a gate of a ticket, and what the gate has done since."""

    budget: int
    canceled: bool


class ModelGate(Gate):
    """A gate of the world. ``scans`` are all that it decided, over its restarts."""

    def __init__(self, world: "World", name: str, direct: bool) -> None:
        self.world = world
        self.name = name
        self.direct = direct
        self.boots = 0
        self.wire = Wire(world, name)
        self.scans: list[Decided] = []
        self.doubles: set[str] = set()
        self.told: dict[str, Told] = {}
        self.open()

    def open(self) -> None:
        """Starts it, as after a power cut."""
        self.boots += 1
        setup = replace(self.world.setup, transport=self.wire)
        super().__init__(self.world.folder / self.name, self.world.server, self.world.time, setup)
        self.clock = Clock(self.time, boot=f"boot {self.boots}")
        self.asker._clock = self.link.clock = self.clock
        self.store.start()
        put = self.store.put

        async def watched(*args: Any, **named: Any) -> tuple[Double, ...]:
            found = await put(*args, **named)
            self.doubles |= {each.ticket.barcode_id for each in found}
            return found

        self.store.put = watched  # type: ignore[method-assign]

    def cut_off(self) -> None:
        """Its power goes: nothing is finished, no file is closed in order."""
        for task in asyncio.all_tasks(self.world.loop):
            if task.get_name().startswith(self.name):
                task.cancel()
        self.store._mirror.close()
        self.store._journal.close()

    def entries(self, barcode: str) -> list[Decided]:
        """Guests that it let in with a ticket; a grant given again is the same guest."""
        return [
            each
            for each in self.scans
            if each.scan.barcode == barcode
            and each.scan.direction is ENTRY
            and each.verdict.admitted
            and each.verdict.reason is not Reason.REGRANT
        ]
