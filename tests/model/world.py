"""One server and its gates in virtual time: the real talk, store and client, without sockets and threads.

The server counts late, loses answers before and after the work, and answers late; the power goes at a gate in
the middle of a request.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from email.utils import formatdate
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import httpx

from gated.api import wire
from gated.api.simulator import Endpoint, Event, Fault, Habits, Service, Simulator, UploadedScan
from gated.api.simulator import Ticket as ServerTicket
from gated.api.simulator.answers import Request, route
from gated.api.simulator.rules import left
from gated.core.scan import TimeTrust
from gated.core.verdict import Reason
from gated.store import Decided, Double
from gated.store.database import Connection, open_database
from gated.store.writer import Piece, Writer
from tests.sync.rig import DAY, ENTRY, Gate, GateClock, Setup
from tests.virtual_time import VirtualLoop

T = TypeVar("T")

NOON = datetime(2027, 7, 16, 12, tzinfo=UTC).timestamp()
PAGE = 3
# Seconds: a request and its answer on the way, each; an answer that comes too late for its guest.
_WAY_S, _LATE_S = 0.02, 3.0
# Which scan a call is about: the task of a call inherits it.
_scan: ContextVar[object] = ContextVar("scan", default=None)


class Trouble(StrEnum):
    """What befalls a request of a gate."""

    REFUSED = "refused"
    BROKEN_BEFORE = "broken before"
    BROKEN_AFTER = "broken after"
    LOST_BEFORE = "lost before"
    LOST_AFTER = "lost after"
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
# The work is done and the gate never learns of it.
_LOSE_THE_ANSWER = (Trouble.BROKEN_AFTER, Trouble.LOST_AFTER, Trouble.POWER_CUT_AFTER)


class PowerCut(BaseException):
    """The gate's power goes, this very moment."""


class AtOnce(Writer):
    """The database thread's work, done on the spot."""

    def start(self) -> None:
        """There is no thread."""

    @property
    def alive(self) -> bool:
        return not self._closed

    def do(self, work: Callable[[], T], *, urgent: bool = False) -> Piece[T]:
        piece = Piece(work)
        piece.take()
        asyncio.get_running_loop().call_soon(piece.settle, self._outcome(piece))
        return piece

    async def close(self, *, within_s: float) -> bool:
        self._closed = True
        return True


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
    caller: str = ""
    """The gate whose request is being carried out."""
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Check-ins, by gate and barcode."""
    mistaken: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Check-ins that were taken for a repeat of another gate's in the same second, by gate and barcode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._queue: list[tuple[float, str, Sequence[UploadedScan], bool]] = []
        self._whose: dict[tuple[str, int], str] = {}

    def upload(self, scans: Sequence[UploadedScan], *, deduplicate: bool = False) -> None:
        self._queue.append((self.clock() + self.lag_s, self.caller, scans, deduplicate))
        self.work()

    def work(self) -> None:
        """Counts what is due."""
        while self._queue and self._queue[0][0] <= self.clock():
            _, gate, scans, deduplicate = self._queue.pop(0)
            before = len(self._movements)
            for scan in (each for each in scans if deduplicate and each.status_code == 100):
                if self._whose.setdefault((scan.barcode_id, scan.checked_in_time), gate) != gate:
                    self.mistaken[gate, scan.barcode_id] += 1
            super().upload(scans, deduplicate=deduplicate)
            self._credit(gate, before)

    def check_in(self, barcode: str) -> Any:
        before = len(self._movements)
        outcome = super().check_in(barcode)
        self._credit(self.caller, before)
        return outcome

    def _credit(self, gate: str, before: int) -> None:
        self.counted.update((gate, each.barcode_id) for each in self._movements[before:] if each.checked_in)


@dataclass(frozen=True)
class Told:
    """What a row told a gate: its entries in all until then may come to ``most``; or it is cancelled."""

    most: int
    canceled: bool


class Wire(httpx.AsyncBaseTransport):
    """From one gate's client straight into the server."""

    def __init__(self, gate: "ModelGate", server: Simulator, event: LaggingEvent) -> None:
        self._gate = gate
        self._server = server
        self._event = event
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
        await asyncio.sleep(_WAY_S)
        response, told = await self._carry_out(request, _FAULTS.get(trouble) if trouble else None)
        self._gate.lost_uploads += trouble in _LOSE_THE_ANSWER and request.url.path.endswith("/upload")
        await asyncio.sleep(_WAY_S)
        match trouble:
            case Trouble.LOST_AFTER:
                raise httpx.RemoteProtocolError("as planned")
            case Trouble.POWER_CUT_AFTER:
                raise PowerCut
            case Trouble.LATE_AFTER:
                await asyncio.sleep(_LATE_S)
        self._gate.told |= told
        return response

    async def _carry_out(
        self, request: httpx.Request, fault: Fault | None
    ) -> tuple[httpx.Response, dict[str, Told]]:
        headers = Message()
        for name, value in request.headers.items():
            headers[name] = value
        asked = Request(request.method, request.url.path, headers, await request.aread())
        if fault is not None:
            self._server.faults.add(Endpoint.ANY, fault)
        self._event.work()
        self._event.caller = self._gate.name
        before = len(self._server.checkins)
        answer, _ = self._server.respond(asked)
        endpoint = route(asked)[0]
        if endpoint is Endpoint.CHECKIN and len(self._server.checkins) > before:
            self._gate.called.add(_scan.get())
        told = {}
        if endpoint is Endpoint.BARCODES and answer.status == 200:
            page = wire.read_page(answer.body, asked=int(headers["X-PAGINATION-PAGE"]), limit=PAGE)
            told = {each.barcode_id: self._told(each.barcode_id) for each in page.tickets}
        now = formatdate(self._server.now(), usegmt=True)
        dated = [] if self._server.habits.no_date_header else [("Date", now)]
        return httpx.Response(answer.status, headers=[*dated, *answer.headers], content=answer.body), told

    def _told(self, barcode: str) -> Told:
        """What a row says of a ticket now, with what of this gate's check-ins is in it."""
        ticket = self._event.tickets[barcode]
        return Told(left(ticket) + self._event.counted[self._gate.name, barcode], bool(ticket.is_canceled))


class ModelGate(Gate):
    """A gate of the world. What it decided and was told is remembered over its restarts."""

    def __init__(self, world: "World", name: str, setup: Setup, *, direct: bool) -> None:
        self.name = name
        self.direct = direct
        self.scans: list[Decided] = []
        self.calls: dict[object, tuple[str, bool]] = {}
        """Of each scan, its barcode and whether its guest was let in."""
        self.called: set[object] = set()
        """Scans that the server has checked in directly."""
        self.lost_uploads = 0
        """Uploads that arrived and were not answered: what was in them may go again, marked, each time."""
        self.doubles: set[str] = set()
        self.told: dict[str, Told] = {}
        self.wire = Wire(self, world.server, world.event)
        self._world = world
        self._setup = replace(setup, transport=self.wire)
        self._boots = 0
        self.open()

    def open(self, *, trust: TimeTrust = TimeTrust.SYNCHRONISED, off: float = 0.0) -> None:
        """Starts it, at a moment at which its clock is so much to be trusted and so many seconds wrong."""
        self._boots += 1
        clock = Clock(self._world.time, trust, off, boot=f"boot {self._boots}")
        super().__init__(self._world.folder / self.name, self._world.server, clock, self._setup)
        self.store.start()
        self._put = self.store.put
        self.store.put = self._watched_put

    async def _watched_put(self, *args: Any, tell: Callable[[Double], None], **named: Any) -> None:
        def found(double: Double) -> None:
            self.doubles.add(double.ticket.barcode_id)
            tell(double)

        await self._put(*args, tell=found, **named)

    def cut_off(self) -> None:
        """Its power goes: nothing is brought to an end."""
        for task in tuple(self.asker._running):
            task.cancel()
        self.store._files.close()

    async def guest(self, barcode: str, lane: str, direction: Any) -> Decided:
        """A guest at a lane."""
        call = object()
        _scan.set(call)
        self.calls[call] = barcode, False
        decided = await self.scan(barcode, lane=lane, direction=direction, direct=self.direct)
        self.calls[call] = barcode, decided.verdict.admitted
        self.scans.append(decided)
        return decided

    def orphans(self, barcode: str) -> int:
        """Check-ins at the server whose guests were not let in then."""
        return [self.calls[call] for call in self.called].count((barcode, False))

    def entries(self, barcode: str) -> int:
        """Guests that it let in with a ticket; a grant given again is for the same guest."""
        return sum(
            each.scan.barcode == barcode
            and each.scan.direction is ENTRY
            and each.verdict.admitted
            and each.verdict.reason is not Reason.REGRANT
            for each in self.scans
        )


class World:
    """The server, its gates, and time."""

    def __init__(self, tickets: Sequence[ServerTicket], habits: Habits, *, lag_s: float) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self._runner = self._stack.enter_context(asyncio.Runner(loop_factory=VirtualLoop))
        loop = self._runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        self.time = VirtualTime(loop)
        for name, stand_in in {
            "Writer": AtOnce,
            "front.Writer": AtOnce,
            "files.open_database": _unsynced,
            "salvage.open_database": _unsynced,
            "time": SimpleNamespace(monotonic=self.time.monotonic),
        }.items():
            self._stack.enter_context(mock.patch(f"gated.store.{name}", stand_in))
        self.event = LaggingEvent(
            service=Service(),
            on_sale=NOON - DAY,
            tickets={each.barcode_id: each for each in tickets},
            lag_s=lag_s,
        )
        self.server = Simulator(self.event, clock=self.time.wall, habits=habits)
        self.gates: list[ModelGate] = []

    def add_gate(self, setup: Setup, *, direct: bool) -> None:
        self.gates.append(ModelGate(self, f"gate {len(self.gates)}", setup, direct=direct))

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Runs until it is done; calls under way go on with the next."""
        return self._runner.run(doing)

    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def close(self) -> None:
        self._stack.close()


def _unsynced(path: Path, kind: str, *, synchronous: str) -> Connection:
    return open_database(path, kind, synchronous="OFF")
