"""Serial scanners: RS-232, USB with a virtual port, a pseudo-terminal, or ``socket://host:port``.

- Opening and closing may block (a TCP connection: 5 s), so each port has one thread for that. Between the two
  the loop reads the descriptor itself: a thread that reads would cost each scan a change of threads.
- The device name is resolved at every opening: ttyACM numbers change, by-id and by-path names do not.
- A silence is vouched for by a look at the port that found nothing, never by the clock alone.

Facts: pyserial 3.5's source. It sets the port raw (a line discipline that echoes would send a visitor's
barcode back to the scanner as commands), flushes input when it opens, locks with flock, leaves the descriptor
non-blocking, and signals a device that is not there by SerialException, bare OSError or termios.error. A port
that is ready and has nothing to read is gone: so the kernel says that a terminal was hung up, or a connection
closed (read(2), n_tty.c); of a pseudo-terminal it says EIO.
"""

import asyncio
import contextlib
import os
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import serial

from gated.core.barcode import ByteFramer, Framing
from gated.deadline import Deadline
from gated.scanners import OnRead, OnState, Parity, ScannerState, await_silence, changes_only

RETRY_FIRST_S = 0.5  # after a loss; doubled up to the last, so that a bad cable does not fill the log
RETRY_LAST_S = 5.0
READ_MOST = 1024  # bytes a turn: a port that never falls silent leaves the loop to others in between
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
        self._port: _Port | None = None
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
        self._silence = Deadline(self._fell_silent)
        self._thread.start()

    async def close(self) -> None:
        self._closing.set()
        self._let_go(None)
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
        """The thread: open, hold until lost, wait, again."""
        wait = RETRY_FIRST_S
        try:
            while not self._closing.is_set():
                try:
                    with self._open() as port:
                        wait = RETRY_FIRST_S
                        self._hold(port)
                # ValueError: a baud rate or an address that this machine can't do.
                except (OSError, termios.error, ValueError) as error:
                    self._tell(self._state, ScannerState.LOST, str(error))
                self._closing.wait(wait)
                wait = min(2 * wait, RETRY_LAST_S)
        finally:
            self._tell(self._ended.set)

    def _open(self) -> serial.SerialBase:
        settings = self._settings
        return serial.serial_for_url(
            settings.device,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=_PARITIES[settings.parity],
            stopbits=settings.stopbits,
            exclusive=True,
        )

    def _hold(self, port: serial.SerialBase) -> None:
        """Has the loop read the port. Returns when the scanner is closed; raises OSError when it is lost."""
        device = self._settings.device
        if device.startswith("socket://"):
            _keep_alive(port.fileno())
        held = _Port(port.fileno())
        if self._tell(self._listen, held, device if "://" in device else os.path.realpath(device)):
            held.ended.result()

    def _tell(self, callback: Callable[..., None], *args: object) -> bool:
        """The one crossing from the thread to the loop; False if there is no loop any more."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody is left to read for
            self._closing.set()
            return False
        return True

    def _state(self, state: ScannerState, why: str) -> None:
        if not self._closing.is_set():
            self._on_state(state, why)

    def _listen(self, port: "_Port", where: str) -> None:
        if self._closing.is_set():
            port.ended.set_result(None)
            return
        self._port = port
        self._framer = ByteFramer(self._framing)
        self._loop.add_reader(port.fd, self._readable, port)
        self._on_state(ScannerState.READING, where)

    def _readable(self, port: "_Port") -> None:
        try:
            data = os.read(port.fd, READ_MOST)
        except BlockingIOError:
            return
        except OSError as error:
            self._let_go(error)
            return
        if not data:
            self._let_go(OSError("unplugged, or closed at the far end"))
            return
        at = time.monotonic()
        for read in self._framer.feed(data, at):
            self._on_read(read, at)
        await_silence(self._silence, self._framer, self._framing)

    def _fell_silent(self) -> None:
        at = time.monotonic()
        # What came during a hold-up of the loop is read next, and waits for its own silence.
        if self._port is not None and not select.select([self._port.fd], [], [], 0)[0]:
            self._framer.silence(at)

    def _let_go(self, error: OSError | None) -> None:
        """Stops reading and leaves the port to the thread: lost, or without an error closed."""
        if self._port is None:
            return
        port, self._port = self._port, None
        self._loop.remove_reader(port.fd)
        self._silence.clear()
        if error is None:
            port.ended.set_result(None)
        else:
            port.ended.set_exception(error)


class _Port:
    """An open port while the loop reads it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended: Future[None] = Future()


def _keep_alive(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as connection:
        for level, option, value in KEEP_ALIVE:
            connection.setsockopt(level, option, value)
