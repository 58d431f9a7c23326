"""What a gate goes through while one endpoint fails in one way, and what must hold meanwhile and after it.

In the middle: every scan is at the server or in the outbox, twice at the server only if it was marked, and no
ticket was admitted more often than it allows. After it, with a server that answers: nothing waits any more,
the guest who was turned away for want of an answer gets in, and the server can be asked again.
"""

import asyncio
import contextlib
from collections import Counter

from gated.api.simulator import Endpoint, Event, Fault, Simulator
from gated.api.simulator import Ticket as ServerTicket
from gated.asking import AskingRules
from gated.core.outbox import UploadRules
from gated.core.scan import Direction
from gated.core.verdict import Origin
from gated.errors import ApiError
from gated.store import Decided, DeskRules
from tests.sync.rig import ENTRY, EXIT, Gate, Setup, event

RULES = DeskRules(upload=UploadRules(replay_checkouts=True))
ENDPOINTS = (
    Endpoint.LOGIN,
    Endpoint.SERVICES,
    Endpoint.BARCODES,
    Endpoint.CHECKIN,
    Endpoint.CHECKOUT,
    Endpoint.UPLOAD,
)
# A refused login is not tried again for five minutes.
_AFTER_A_REFUSED_LOGIN = 301.0
_DELTA_EVERY, _ROUNDS = 15.0, 20


def an_event() -> Event:
    """Tickets for a local entry and exit, a local entry twice, a direct entry; SOLD and LATER come later."""
    return event(*(ServerTicket(name) for name in ("LOCAL", "TWICE", "DIRECT")))


def a_setup(asking: AskingRules) -> Setup:
    return Setup(rules=RULES, asking=asking, page_size=2)


class Day:
    """The scans of one gate while the server fails once at ``endpoint``."""

    def __init__(self, gate: Gate, server: Simulator) -> None:
        self.gate = gate
        self.server = server
        self.scans: list[Decided] = []

    async def scan(self, barcode: str, *, direction: Direction = ENTRY, direct: bool = False) -> Decided:
        self.scans.append(await self.gate.scan(barcode, direction=direction, direct=direct))
        return self.scans[-1]

    async def live_through(self, endpoint: Endpoint, fault: Fault, *, seconds: float) -> None:
        """All that the gate does with the server, and the fault in it."""
        while not (await self.gate.store.state()).complete:
            with contextlib.suppress(
                ApiError
            ):  # a busy machine may be slower than a client that is in a hurry
                await self.gate.downloads.full()
        for barcode in ("LOCAL", "TWICE", "TWICE"):
            await self.scan(barcode)
        await self.scan("LOCAL", direction=EXIT)
        self.server.event.add_ticket(ServerTicket("SOLD"))
        if endpoint is Endpoint.LOGIN:
            self.server.revoke_tokens()
        times = 2 if endpoint is Endpoint.CHECKIN else 1  # one for each of the two guests below
        self.server.faults.add(endpoint, fault, times, seconds=seconds)
        await self.scan("DIRECT", direct=True)
        await self.scan("SOLD")
        for job in (
            self.gate.uploads.run,
            self.gate.uploads.run,
            self.gate.downloads.delta,
            self.gate.downloads.full,
        ):
            with contextlib.suppress(ApiError):
                await job()
            await self.check()
        if endpoint is Endpoint.LOGIN and fault in (Fault.STATUS_401, Fault.STATUS_403):
            self.gate.time.ahead += _AFTER_A_REFUSED_LOGIN
        assert self.server.faults._planned == []  # it has struck, as often as it was to

    async def heal(self) -> None:
        """The server answers from now on; nobody does anything by hand."""
        self.server.faults.clear()
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls)  # each ends by itself, sooner than the next guest comes
        for _ in range(_ROUNDS):
            await self.gate.sync(rounds=1)
            if not await self.gate.outbox() and self.gate.link.trouble is None:
                break
            self.gate.time.ahead += _DELTA_EVERY
        assert await self.gate.outbox() == {}
        assert self.gate.link.trouble is None
        await self.check()

    async def guests_come_back(self) -> None:
        """Those who have not got in yet, and one whose ticket is sold only now."""
        for barcode in ("SOLD", "DIRECT"):
            if not self.admitted()[barcode]:
                decided = await self.scan(barcode)
                assert decided.verdict.admitted, decided
        self.server.event.add_ticket(ServerTicket("LATER"))
        for _ in range(_ROUNDS):
            await self.gate.link.probe()
            later = await self.scan("LATER")
            if later.verdict.admitted:
                break
        assert (later.verdict.admitted, later.origin) == (True, Origin.ASK)
        await self.gate.sync(rounds=1)
        assert await self.gate.outbox() == {}
        await self.check()
        for barcode in ("LOCAL", "TWICE", "DIRECT", "SOLD", "LATER"):
            assert self.admitted()[barcode] == 1
            assert not (await self.scan(barcode)).verdict.admitted

    def admitted(self) -> Counter[str]:
        """How often each barcode was let in."""
        return Counter(
            each.scan.barcode for each in self.scans if each.verdict.admitted and each.scan.direction is ENTRY
        )

    async def check(self) -> None:
        """What holds at any time."""
        waiting = {row.seq for row in await self.gate.store.outbox_rows(0, 1000)}
        marked = {seq for (seq,) in self.gate.journal("SELECT seq FROM scan WHERE marked = 1")}
        to_tell = [each for each in self.scans if not _said_by_the_server(each)]
        ours = Counter(_key(each) for each in to_tell)
        kept = Counter(_key(each) for each in to_tell if each.seq in waiting)
        again = Counter(_key(each) for each in to_tell if each.seq in marked)
        there = self.there()
        for key in ours | there:
            assert there[key] + kept[key] >= ours[key], key
            assert there[key] <= max(1, ours[key]) + again[key], key
        assert set(self.admitted().values()) <= {1}

    def there(self) -> Counter[tuple[str, int | None]]:
        """What the server has: check-ins and check-outs that it counted, denials that it keeps."""
        there: Counter[tuple[str, int | None]] = Counter()
        for movement in self.server.event.movements:
            there[movement.barcode_id, 100 if movement.checked_in else 200] += 1
        for received in self.server.uploaded:
            if received.scan.status_code not in (100, 200):
                there[received.scan.barcode_id, received.scan.status_code] += 1
        return there


def _key(decided: Decided) -> tuple[str, int | None]:
    return decided.scan.barcode, decided.verdict.code


def _said_by_the_server(decided: Decided) -> bool:
    """A denial that is not told to whom it comes from, or one without a code, that is told to nobody."""
    code = decided.verdict.code
    return code is None or (code in (45, 50, 60) and decided.origin is not Origin.LOCAL)
