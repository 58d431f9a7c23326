"""A deadline that moves often and seldom passes, on the clock of the loop that runs.

A scan sets several and clears them a millisecond later. Making a timer of the loop's for each, and taking it
away again, would cost that scan more than deciding it. So the loop's timer is left where it is while the
deadline moves on: when it fires too early it is set again.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls ``passed`` when it passes, which it does once for each time it is set."""

    def __init__(self, passed: Callable[[], None]) -> None:
        self._passed = passed
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> float:
        """Has it pass so many seconds from now, and not when it was set to before.

        Returns when that is, by the loop's time.
        """
        self._due = asyncio.get_running_loop().time() + seconds
        if self._timer is None:
            self._wake_at(self._due)
        elif self._timer.when() > self._due:
            self._timer.cancel()
            self._wake_at(self._due)
        return self._due

    def clear(self) -> None:
        """It is not to pass any more."""
        self._due = None

    def _wake_at(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due, self._woken, due)

    def _woken(self, at: float) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > at:
            self._wake_at(self._due)
        else:
            self._due = None
            self._passed()
