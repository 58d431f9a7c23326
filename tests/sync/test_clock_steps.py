"""The machine's wall clock is set hours and decades off in the middle of everything, and nothing moves."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gated.api.simulator import Endpoint, Fault
from gated.api.simulator import Ticket as ServerTicket
from gated.asking import AskingRules
from gated.clock import SystemClock
from gated.core.scan import TimeTrust
from gated.core.verdict import Reason
from gated.store import Passage
from tests.sync.conftest import Serve
from tests.sync.rig import Gate, Setup, Time, event

HOUR = 3600
STEPS = [timedelta(hours=-6), timedelta(days=365 * 50)]


class Wall(datetime):
    """The machine's wall clock, and so much ahead of the true time."""

    ahead: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + cls.ahead


class MachineClock(SystemClock):
    """gated's own clock, on a machine that no time server steers and that has no real-time clock."""

    def __init__(self, root: Path, passing: Time) -> None:
        super().__init__(root=root, kernel_synchronised=lambda: False)
        self.time = passing


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[Wall]:
    monkeypatch.setattr("gated.clock.datetime", Wall)
    monkeypatch.setattr(Wall, "ahead", timedelta())
    return Wall


@pytest.fixture
def open_gate(tmp_path: Path, passing: Time, wall: type[Wall]) -> Callable[..., Gate]:
    def opening(server: Any, setup: Setup | None = None) -> Gate:
        clock: Any = MachineClock(tmp_path, passing)
        gate = Gate(tmp_path / "gate", server, clock, setup or Setup())
        gate.store.start()
        return gate

    return opening


def is_true(seconds: float) -> bool:
    """Whether a time is about now."""
    return abs(seconds - time.time()) < 5


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("when", ["at boot", "before the send", "after the send", "in a download"])
async def test_what_goes_up_has_its_true_time_and_goes_once(
    when: str, step: timedelta, serve: Serve, open_gate: Callable[..., Gate], wall: type[Wall]
) -> None:
    def set_clock() -> None:
        wall.ahead = step

    if when == "at boot":
        set_clock()
    server = serve(event(plain=5))
    gate = open_gate(server)
    await gate.downloads.full()
    await gate.admit("T1", "T2")
    if when == "before the send":
        server.faults.add(Endpoint.UPLOAD, Fault.CLOSED_BEFORE)
    elif when == "after the send":
        server.faults.add(Endpoint.UPLOAD, Fault.CLOSED_AFTER)
    aim = Endpoint.BARCODES if when == "in a download" else Endpoint.UPLOAD
    server.faults.meanwhile(aim, set_clock)
    await gate.sync()
    await gate.admit("T3")
    await gate.sync()
    assert wall.ahead == step
    assert await gate.outbox() == {}
    assert gate.checked_in() == {"T1": 1, "T2": 1, "T3": 1}
    assert all(is_true(each.scan.checked_in_time) for each in server.uploaded)
    mark = (await gate.store.state()).mark
    assert mark is not None
    assert is_true(mark + 120)
    await gate.close()


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_windows_and_regrants_go_by_the_true_time(
    step: timedelta, serve: Serve, open_gate: Callable[..., Gate], wall: type[Wall]
) -> None:
    now = int(time.time())
    server = serve(
        event(
            ServerTicket("ENDS-SOON", expire_from=now + HOUR),
            ServerTicket("ENDED", checkin_valid_till=now - HOUR),
            ServerTicket("EARLY", checkin_valid_from=now + HOUR),
            ServerTicket("BEGAN", checkin_valid_from=now - HOUR),
            plain=2,
        )
    )
    gate = open_gate(server)
    await gate.downloads.full()
    lapsed = await gate.scan("T1")
    assert lapsed.seq is not None
    await gate.store.set_passage(lapsed.seq, Passage.NOT_TAKEN)
    wall.ahead = step
    assert gate.clock.now().trust is TimeTrust.ESTIMATED
    reasons = {
        barcode: (await gate.scan(barcode)).verdict.reason
        for barcode in ("ENDS-SOON", "ENDED", "EARLY", "BEGAN", "T1")
    }
    assert reasons == {
        "ENDS-SOON": Reason.VALID,
        "ENDED": Reason.EXPIRED,
        "EARLY": Reason.TOO_EARLY,
        "BEGAN": Reason.VALID,
        "T1": Reason.REGRANT,
    }
    await gate.close()


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_a_guest_whose_check_in_was_lost_gets_in_once_after_a_step_too(
    step: timedelta, serve: Serve, open_gate: Callable[..., Gate], wall: type[Wall]
) -> None:
    server = serve(event(plain=2))
    gate = open_gate(server, Setup(asking=AskingRules(fall_back=False)))
    await gate.downloads.full()
    server.faults.add(Endpoint.CHECKIN, Fault.CLOSED_AFTER)
    admitted = [(await gate.scan("T1", direct=True)).verdict.admitted]
    wall.ahead = step
    admitted += [(await gate.scan("T1", direct=True)).verdict.admitted for _ in range(2)]
    assert admitted == [False, True, False]
    assert gate.checked_in() == {"T1": 1}
    await gate.close()
