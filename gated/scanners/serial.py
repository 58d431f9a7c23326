"""Serial scanners: RS-232, USB with a virtual port, a pseudo-terminal, or ``socket://host:port``.

- pyserial has no asynchronous read, so each port has one thread, and what it reads crosses to the loop in
  :meth:`SerialScanner._tell` alone. Only that thread touches the port.
- The device name is resolved at every opening: ttyACM numbers change, by-id and by-path names do not.
- A silence is vouched for by a read that waited and got nothing, never by the clock alone.

Facts: pyserial 3.5's source. It sets the port raw (a line discipline that echoes would send a visitor's
barcode back to the scanner as commands), flushes input when it opens, locks with flock, and signals a device
that is gone by SerialException, bare OSError or termios.error.
"""

import asyncio
import contextlib
import os
import socket
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import serial

from gated.core.barcode import ByteFramer, Framing, Read
from gated.scanners import OnRead, OnState, Parity, ScannerState, changes_only

RETRY_FIRST_S = 0.5  # after a loss; doubled up to the last, so that a bad cable does not fill the log
RETRY_LAST_S = 5.0
READ_WAIT_MOST_S = 0.25  # how long a read may wait: also how long closing may take
READ_WAIT_LEAST_S = 0.02  # below, an idle port would cost a core more than a percent
CLOSE_WAIT_S = 0.4  # then a thread that hangs in opening (a TCP connection: 5 s) is left to end by itself

# TCP has no other way to notice that the far end lost its power: dead after 10 + 3 * 5 s.
KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


_PARITIES = {
    Parity.NONE: serial.PARITY_NONE,
    Parity.EVEN: serial.PARITY_EVEN,
    Parity.ODD: serial.PARITY_ODD,
    Parity.MARK: serial.PARITY_MARK,
    Parity.SPACE: serial.PARITY_SPACE,
}


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """A port and its line: ``bytesize`` 5 to 8 bits, ``stopbits`` 1, 1.5 or 2. USB ignores the line."""

    device: str
    baudrate: int = 9600
    bytesize: int = 8
    parity: Parity = Parity.NONE
    stopbits: float = 1


class SerialScanner:
    """A scanner on a serial port. See :class:`gated.scanners.Scanner`."""

    def __init__(self, name: str, settings: SerialSettings, framing: Framing) -> None:
        self.name = name
        self._settings = settings
        self._framing = framing
        self._framer = ByteFramer(framing)
        self._closing = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"scanner-{name}", daemon=True)

    @property
    def partials(self) -> int:
        return self._framer.partials

    def start(self, on_read: OnRead, on_state: OnState) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_read = on_read
        self._on_state = changes_only(on_state)
        self._thread.start()

    async def close(self) -> None:
        self._closing.set()
        if not self._thread.is_alive():
            return
        # One that hangs longer is a daemon that nobody hears any more, and closes its port when it wakes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._ended.wait()
            self._thread.join(CLOSE_WAIT_S)  # it has nothing left to do

    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        """The thread: open, read until lost, wait, again."""
        wait = RETRY_FIRST_S
        try:
            while not self._closing.is_set():
                try:
                    with self._open() as port:
                        wait = RETRY_FIRST_S
                        self._read(port)
                # ValueError: a baud rate or an address that this machine can't do.
                except (OSError, termios.error, ValueError) as error:
                    self._tell(self._state, ScannerState.LOST, str(error))
                self._closing.wait(wait)
                wait = min(2 * wait, RETRY_LAST_S)
        finally:
            self._tell(self._ended.set)

    def _open(self) -> serial.SerialBase:
        settings = self._settings
        timeout = self._framing.character_timeout.total_seconds()
        return serial.serial_for_url(
            settings.device,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=_PARITIES[settings.parity],
            stopbits=settings.stopbits,
            timeout=max(READ_WAIT_LEAST_S, min(timeout, READ_WAIT_MOST_S)),
            exclusive=True,
        )

    def _read(self, port: serial.SerialBase) -> None:
        device = self._settings.device
        if device.startswith("socket://"):
            _keep_alive(port.fileno())
        self._framer = ByteFramer(self._framing)
        self._tell(self._state, ScannerState.READING, device if "://" in device else os.path.realpath(device))
        while not self._closing.is_set():
            begun = time.monotonic()
            data = port.read(max(1, port.in_waiting))
            if not data:
                self._framer.silence(begun + port.timeout)
                continue
            at = time.monotonic()
            for read in self._framer.feed(data, at):
                self._tell(self._deliver, read, at)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        """The one crossing from the thread to the loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody is left to read for
            self._closing.set()

    def _deliver(self, read: Read, at: float) -> None:
        if not self._closing.is_set():
            self._on_read(read, at)

    def _state(self, state: ScannerState, why: str) -> None:
        if not self._closing.is_set():
            self._on_state(state, why)


def _keep_alive(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as connection:
        for level, option, value in KEEP_ALIVE:
            connection.setsockopt(level, option, value)
