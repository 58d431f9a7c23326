"""Every endpoint, every fault that is over at once: see :mod:`tests.sync.faults` for what must hold."""

import pytest

from gated.api.simulator import Endpoint, Fault
from gated.asking import AskingRules
from tests.sync.conftest import Open, Serve
from tests.sync.faults import ENDPOINTS, Day, a_setup, an_event

FAULTS = (
    Fault.STATUS_500,
    Fault.STATUS_500_AFTER,
    Fault.STATUS_429,
    Fault.STATUS_401,
    Fault.STATUS_403,
    Fault.CLOSED_BEFORE,
    Fault.CLOSED_AFTER,
    Fault.HALF_BODY,
    Fault.NOT_JSON,
    Fault.OTHER_SHAPE,
    Fault.REDIRECT,
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_fault_loses_no_scan_admits_nobody_twice_and_heals_by_itself(
    serve: Serve, open_gate: Open, endpoint: Endpoint, fault: Fault
) -> None:
    server = serve(an_event())
    day = Day(await open_gate(server, a_setup(AskingRules())), server)
    await day.live_through(endpoint, fault, seconds=1)
    await day.heal()
    await day.guests_come_back()
