"""A loop for tests whose time jumps to the next timer when nothing is left to do.

Hours pass in milliseconds, every run is alike, and nothing sleeps. Only for code that waits for timers: a
thread or another process would not keep up.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        if ready := super().select(0):
            return ready
        assert timeout is not None, "nothing will ever happen again"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 1000 s."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def block(self, seconds: float) -> None:
        """What a callback does that keeps the loop for so long."""
        self._jumping.now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs ``main`` on a loop of virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def loop() -> VirtualLoop:
    """The loop that runs."""
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running
