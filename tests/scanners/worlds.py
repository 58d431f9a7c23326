"""The world round a scanner: something to plug in, scan with and pull out, for each kind of scanner.

And an ear: what a scanner tells, to be awaited.
"""

import asyncio
import errno
import os
import pty
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from gated.core.barcode import US_KEYS, Barcode, Framing, Read
from gated.scanners import Scanner, ScannerState
from gated.scanners.fake import FakeScanner
from gated.scanners.hid import EV_KEY, EV_SYN, SYN_REPORT, HidScanner, InputDevice
from gated.scanners.serial import SerialScanner, SerialSettings
from tests.scanners.keys import Key, typed

PATIENCE_S = 2.0  # for what must come; tests that pass never wait for it
FRAMING = Framing(character_timeout=timedelta(milliseconds=40))


class Ear:
    """Hears one scanner."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue[tuple[Read, float]] = asyncio.Queue()
        self.states: asyncio.Queue[tuple[ScannerState, str]] = asyncio.Queue()

    def listen(self, scanner: Scanner) -> None:
        scanner.start(
            lambda read, at: self.reads.put_nowait((read, at)),
            lambda state, why: self.states.put_nowait((state, why)),
        )

    async def read(self) -> Read:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reads.get())[0]

    async def barcode(self) -> str:
        read = await self.read()
        assert isinstance(read, Barcode)
        return read.text

    async def state(self) -> ScannerState:
        return (await self.news())[0]

    async def news(self) -> tuple[ScannerState, str]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.states.get()


class World(Protocol):
    """A place for one scanner, at first empty."""

    def scanner(self) -> Scanner: ...
    def plug(self) -> None: ...
    def unplug(self) -> None: ...
    def scan(self, text: str) -> None: ...
    def close(self) -> None: ...


class FakeWorld:
    def __init__(self, _place: Path) -> None:
        self._scanner = FakeScanner(plugged=False)

    def scanner(self) -> FakeScanner:
        return self._scanner

    def plug(self) -> None:
        self._scanner.find()

    def unplug(self) -> None:
        self._scanner.lose()

    def scan(self, text: str) -> None:
        self._scanner.scan(text)

    def close(self) -> None:
        pass


class PtyWorld:
    """A pseudo-terminal under a name that is another terminal's after each plugging, as by-id names are."""

    def __init__(self, place: Path) -> None:
        self.link = place / "scanner"
        self.line = -1

    def scanner(self) -> SerialScanner:
        return SerialScanner("pty", SerialSettings(str(self.link)), FRAMING)

    def plug(self) -> None:
        self.line, terminal = pty.openpty()
        self.link.symlink_to(os.ttyname(terminal))
        os.close(terminal)

    def unplug(self) -> None:
        self.link.unlink()
        os.close(self.line)
        self.line = -1

    def scan(self, text: str) -> None:
        os.write(self.line, text.encode() + b"\r")

    def close(self) -> None:
        if self.line >= 0:
            self.unplug()


@dataclass(frozen=True)
class Event:
    type: int
    code: int
    value: int


def reports(keys: Iterable[Key]) -> list[Event]:
    """Key events as a kernel sends them, each with its report."""
    return [
        event for code, value in keys for event in (Event(EV_KEY, code, value), Event(EV_SYN, SYN_REPORT, 0))
    ]


class RecordedDevice:
    """An event device that plays events and keeps a history of what was done to it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.keys: Sequence[int] = list(US_KEYS)
        self.grabbed_elsewhere = False
        self.history: list[str] = []
        self._coming: deque[Event] = deque()
        self._gone = False

    def play(self, events: list[Event]) -> None:
        self._coming.extend(events)
        self._wake()

    def pull(self) -> None:
        self._gone = True
        self._wake()

    def capabilities(self) -> dict[int, Sequence[int]]:
        return {EV_SYN: [0, 1, 4], EV_KEY: self.keys}

    def grab(self) -> None:
        self.history.append("grab")
        if self.grabbed_elsewhere:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def read(self) -> Iterable[Event]:
        self.history.append("read")
        if self._gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        os.eventfd_read(self.fd)
        while self._coming:
            yield self._coming.popleft()

    def close(self) -> None:
        self.history.append("close")
        os.close(self.fd)
        self.fd = -1

    def _wake(self) -> None:
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)


class RecordedWorld:
    def __init__(self, _place: Path) -> None:
        self.device: RecordedDevice | None = None

    def scanner(self) -> HidScanner:
        return HidScanner("recorded", "/dev/input/by-id/scanner", FRAMING, self._open)

    def plug(self) -> None:
        self.device = RecordedDevice()

    def unplug(self) -> None:
        assert self.device
        self.device.pull()
        self.device = None

    def scan(self, text: str) -> None:
        assert self.device
        self.device.play(reports(typed(text)))

    def close(self) -> None:
        pass

    def _open(self, path: str) -> InputDevice:
        if self.device is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.device


WORLDS = [FakeWorld, PtyWorld, RecordedWorld]
