"""A scanner for tests: it reads what it is told to read, at once."""

import asyncio
import time

from gated.core.barcode import read_text
from gated.scanners import OnRead, OnState, ScannerState, changes_only


class FakeScanner:
    """Reads on :meth:`scan`, is unplugged by :meth:`lose` and plugged in by :meth:`find`.

    ``plugged=False``: it is lost at the start. What is scanned while it is lost or closed goes nowhere.
    """

    partials = 0

    def __init__(self, name: str = "fake", *, plugged: bool = True) -> None:
        self.name = name
        self._plugged = plugged
        self._running = False

    def start(self, on_read: OnRead, on_state: OnState) -> None:
        self._on_read = on_read
        self._on_state = changes_only(on_state)
        self._running = True
        asyncio.get_running_loop().call_soon(self._tell)

    async def close(self) -> None:
        self._running = False

    def alive(self) -> bool:
        return self._running

    def scan(self, text: str) -> None:
        """Read ``text``, which may be malformed."""
        if self._running and self._plugged:
            self._on_read(read_text(text), time.monotonic())

    def lose(self) -> None:
        """Unplug it."""
        self._plugged = False
        self._tell()

    def find(self) -> None:
        """Plug it in."""
        self._plugged = True
        self._tell()

    def _tell(self) -> None:
        if not self._running:
            return
        if self._plugged:
            self._on_state(ScannerState.READING, "fake")
        else:
            self._on_state(ScannerState.LOST, "unplugged")
