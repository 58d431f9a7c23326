"""Every endpoint, every fault that lasts, with clients of little patience: see :mod:`tests.sync.faults`."""

from datetime import timedelta

import pytest

from gated.api.simulator import Endpoint, Fault
from gated.asking import AskingRules
from tests.sync.conftest import Open, Serve
from tests.sync.faults import ENDPOINTS, Day, a_setup, an_event
from tests.sync.rig import be_brief

# Seconds: a guest's, a client's, and how long the fault lasts.
DEADLINE, PATIENCE, LASTS = 0.1, 0.25, 0.75


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.TIMEOUT_AFTER, Fault.SLOW_DRIP])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_slow_server_loses_no_scan_admits_nobody_twice_and_heals_by_itself(
    serve: Serve, open_gate: Open, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, fault: Fault
) -> None:
    be_brief(monkeypatch, PATIENCE)
    server = serve(an_event())
    rules = AskingRules(deadline=timedelta(seconds=DEADLINE))
    day = Day(await open_gate(server, a_setup(rules)), server)
    await day.live_through(endpoint, fault, seconds=LASTS)
    await day.heal()
    await day.guests_come_back()
