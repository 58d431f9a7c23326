"""Servers and gates for the tests of the talk; each test has its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gated.api.simulator import Event, Habits, Simulator
from tests.sync.rig import Gate, GateClock, Setup, Time, server_of

Serve = Callable[..., Simulator]
Open = Callable[..., Awaitable[Gate]]


@pytest.fixture(autouse=True)
def _quick_store(unsynced: None) -> None:
    """Here the talk counts."""


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def serve(passing: Time) -> Iterator[Serve]:
    with ExitStack() as stack:

        def served(made: Event, habits: Habits | None = None) -> Simulator:
            return stack.enter_context(server_of(made, passing, habits))

        yield served


@pytest.fixture
async def open_gate(tmp_path: Path, passing: Time) -> AsyncIterator[Open]:
    """Opens a gate; under a name that was used before, it is that gate after a restart."""
    gates: list[Gate] = []

    async def opening(server: Simulator, setup: Setup | None = None, name: str = "gate") -> Gate:
        gate = Gate(tmp_path / name, server, GateClock(passing), setup or Setup())
        gate.store.start()
        gates.append(gate)
        return gate

    yield opening
    for gate in gates:
        await gate.close()
