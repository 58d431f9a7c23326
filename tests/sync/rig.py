"""A gate without lanes: the real store, client and talk with the API, a real server over a socket.

Time is the machine's, and as much ahead as a test says, at the gate and at the server alike.
"""

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from gated.api.client import ApiSettings, TicketScanApi
from gated.api.link import Patience
from gated.api.simulator import Event, Habits, Service, Simulator
from gated.api.simulator import Ticket as ServerTicket
from gated.asking import Asker, AskingRules
from gated.clock import new_scan_id
from gated.core.scan import Direction, LaneName, Moment, Scan, TimeTrust
from gated.errors import ApiError
from gated.store import Ask, Decided, DeskRules, Store, Terms
from gated.sync.downloads import Downloads
from gated.sync.link import Link
from gated.sync.uploads import Uploads

DAY = 24 * 3600
ENTRY, EXIT = Direction.ENTRY, Direction.EXIT


class Passing(Protocol):
    """What both clocks go by, the gate's and the server's."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


@dataclass
class Time:
    """The machine's time, and ``ahead`` seconds more."""

    ahead: float = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def wall(self) -> float:
        return time.time() + self.ahead


@dataclass
class GateClock:
    """The gate's clock; remembers what the API has taught it. ``off`` is how wrong it is, in seconds."""

    time: Passing
    trust: TimeTrust = TimeTrust.SYNCHRONISED
    off: float = 0.0
    boot: str = "boot"
    learnt: list[datetime] = field(default_factory=list)

    def now(self) -> Moment:
        wall = datetime.fromtimestamp(self.time.wall() + self.off, UTC)
        return Moment(wall, self.trust, self.time.monotonic(), self.boot)

    def learn(self, server: datetime, monotonic: float) -> None:
        self.learnt.append(server)


@dataclass(frozen=True)
class Setup:
    """What a gate is set up with."""

    rules: DeskRules = field(default_factory=DeskRules)
    asking: AskingRules = field(default_factory=AskingRules)
    service: str | None = None
    page_size: int = 500
    password: str = "secret"
    transport: httpx.AsyncBaseTransport | None = None


class Gate:
    """The parts of one gate that talk, and a desk to scan at."""

    def __init__(self, folder: Path, server: Simulator, clock: GateClock, setup: Setup) -> None:
        self.server = server
        self.folder = folder
        self.clock = clock
        self.time = passing = clock.time
        self.store = Store(folder, setup.rules)
        settings = ApiSettings(
            base_url=server.url, username="gate", device_info="DEVICE_ID:TEST", page_size=setup.page_size
        )
        self.api = TicketScanApi(
            settings, setup.password, transport=setup.transport, monotonic=passing.monotonic
        )
        self.asker = Asker(self.api, self.store, setup.asking, self.clock)
        self.link = Link(self.api, self.store, self.asker, self.clock, setup.service)
        self.uploads = Uploads(self.link)
        self.due: list[str] = []
        self.downloads = Downloads(self.link, self.due.append)

    async def scan(
        self, barcode: str, *, lane: str = "in", direction: Direction = ENTRY, direct: bool = False
    ) -> Decided:
        """A guest at a lane: decided here, or by asking, as the lane's shell does it."""
        at = self.clock.now()
        scan = Scan(new_scan_id(at), barcode, LaneName(lane), direction, at)
        terms = Terms(
            ask_known=direct and self.asker.worthwhile,
            ask_unknown=self.asker.worthwhile,
            rationed=self.asker.rationed(scan.lane),
            unasked=direct and not self.asker.worthwhile and not self.asker.falls_back,
        )
        answer = await self.store.decide(scan, terms)
        return await self.asker.ask(answer) if isinstance(answer, Ask) else answer

    async def admit(self, *barcodes: str) -> None:
        """Guests who must be admitted, on the gate's own word."""
        for barcode in barcodes:
            decided = await self.scan(barcode)
            assert decided.verdict.admitted, (barcode, decided.verdict)

    async def outbox(self) -> dict[str, str]:
        """What waits, by barcode: ``sent``, ``lost``, or why it is parked."""
        rows = await self.store.outbox_rows(0, 10_000)
        return {row.barcode_id: row.parked or ("lost" if row.lost else "sent") for row in rows}

    async def sync(self, *, rounds: int = 3) -> None:
        """A few rounds of all the jobs, whatever comes of each; what is due runs with the next."""
        for _ in range(rounds):
            for job in (self.link.probe, self.uploads.run, self.downloads.delta):
                with contextlib.suppress(ApiError):
                    await job()
            if "full" in self.due or not (await self.store.state()).complete:
                self.due.clear()
                with contextlib.suppress(ApiError):
                    await self.downloads.full()

    def journal(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What another program reads in the journal."""
        with contextlib.closing(sqlite3.connect(self.folder / "journal.db")) as connection:
            return connection.execute(query, values).fetchall()

    def uploaded(self) -> Counter[tuple[str, int]]:
        """How often the server keeps each barcode and code."""
        return Counter((each.scan.barcode_id, each.scan.status_code) for each in self.server.uploaded)

    def checked_in(self) -> Counter[str]:
        """How often the server has counted a check-in of each barcode."""
        return Counter(each.barcode_id for each in self.server.checkins)

    async def close(self) -> None:
        """Ends it as its process would; closing it again does nothing."""
        if not self.store.alive:
            return
        await self.asker.close()
        await self.api.close()
        await self.store.close()


def event(*tickets: ServerTicket, plain: int = 0, now: float | None = None) -> Event:
    """An event with these tickets and T1, T2 … of one entry, all sold the day before."""
    sold = (*tickets, *(ServerTicket(f"T{number}") for number in range(1, plain + 1)))
    return Event(
        service=Service(),
        on_sale=(time.time() if now is None else now) - DAY,
        tickets={each.barcode_id: each for each in sold},
    )


def server_of(made: Event, passing: Passing, habits: Habits | None = None) -> Simulator:
    """A server for the event, by the common time."""
    return Simulator(made, clock=passing.wall, habits=habits)


def be_brief(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Makes clients that are opened from now on wait so long for a piece of an answer, and twice for all."""
    brief = Patience(httpx.Timeout(seconds), whole_s=2 * seconds)
    monkeypatch.setattr("gated.api.client._DIRECT", brief)
    monkeypatch.setattr("gated.api.client._TRANSFER", brief)


async def failing(job: Callable[[], Awaitable[object]]) -> ApiError:
    """The error of a job that must fail."""
    with pytest.raises(ApiError) as caught:
        await job()
    return caught.value
