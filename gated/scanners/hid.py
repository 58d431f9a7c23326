"""HID scanners: a USB scanner that types, read from its own event device.

- The device is grabbed before it is first read, or not read at all: else a visitor's barcode is typed into
  the console as well.
- It is looked for by the configured name every second; by-id and by-path names are resolved at each opening.
- The kernel keeps 64 events for a reader. All but keys are masked, so that more of them fit in while the loop
  is held up.
- When the kernel ran out of room (SYN_DROPPED), all up to and including the next SYN_REPORT is stale and the
  barcode under way is discarded.

python-evdev is imported only when a scanner is opened, since it is not there on every machine. Used is what
1.6.1 has; its asynchronous reading loses events when cancelled, so the loop watches the descriptor instead.
Facts: linux/input.h, input-event-codes.h, the kernel's event-codes document and evdev.c, python-evdev's
source.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from gated.core.barcode import KEY_ENTER, Framing, KeyFramer, Read
from gated.deadline import Deadline
from gated.errors import ScannerError
from gated.scanners import OnRead, OnState, ScannerState, await_silence, changes_only

RESCAN_S = 1.0  # a node is there for some ms before its group is set, so each failure is tried again

EV_SYN = 0
EV_KEY = 1
SYN_REPORT = 0
SYN_DROPPED = 3

# _IOW('E', 0x93, struct input_mask): a type of events, where 0 stands for the types themselves; the bytes of
# the bitmap of what is wanted of it, whole longs; its address.
EVIOCSMASK = 1 << 30 | 16 << 16 | ord("E") << 8 | 0x93
_INPUT_MASK = struct.Struct("=IIQ")

# What any scanner that types has; its volume or power node has not.
NEEDED_KEYS = frozenset(range(2, 12)) | {KEY_ENTER}  # KEY_1 to KEY_0, and Enter

REASONS = {
    errno.ENOENT: "not there",
    errno.ENODEV: "unplugged",
    errno.EBUSY: "grabbed by another program",
    errno.EACCES: "permission denied: is gated in the group input?",
    errno.ENOTTY: "not an event device",
}


class InputEvent(Protocol):
    """An event of the kernel, as far as it matters here."""

    type: int
    code: int
    value: int


class InputDevice(Protocol):
    """What is used of python-evdev's class of that name. All may raise OSError."""

    fd: int

    def capabilities(self) -> Mapping[int, Sequence[object]]: ...
    def grab(self) -> None: ...
    def read(self) -> Iterable[InputEvent]: ...
    def close(self) -> None: ...


OpenDevice = Callable[[str], InputDevice]
"""Opens the device of a path; raises OSError, or ScannerError when no device can be opened at all."""


def open_evdev(path: str) -> InputDevice:
    """The event device of ``path`` through python-evdev."""
    try:
        import evdev
    except ImportError as error:
        raise ScannerError("python-evdev is not installed", hint="apt install python3-evdev") from error
    device: InputDevice = evdev.InputDevice(path)
    # In Linux since 4.4. Where it is refused the scanner can be read all the same.
    with contextlib.suppress(OSError):
        want_keys_only(device.fd)
    return device


def want_keys_only(fd: int) -> None:
    """Has the kernel keep no event but keys for that reader. Raises OSError.

    A keyboard sends the scan code (MSC_SCAN) with each key as well: a third of all that would be kept.
    """
    wanted = array("Q", [1 << EV_SYN | 1 << EV_KEY])
    address, count = wanted.buffer_info()
    fcntl.ioctl(fd, EVIOCSMASK, _INPUT_MASK.pack(EV_SYN, count * wanted.itemsize, address))


class HidScanner:
    """A scanner that types. See :class:`gated.scanners.Scanner`."""

    def __init__(
        self, name: str, device: str, framing: Framing, open_device: OpenDevice = open_evdev
    ) -> None:
        self.name = name
        self._path = device
        self._framing = framing
        self._framer = KeyFramer(framing)
        self._open_device = open_device
        self._device: InputDevice | None = None
        self._stale = False  # between SYN_DROPPED and the next SYN_REPORT
        self._next: asyncio.Handle | None = None  # the next attempt

    @property
    def partials(self) -> int:
        return self._framer.partials

    def start(self, on_read: OnRead, on_state: OnState) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_read = on_read
        self._on_state = changes_only(on_state)
        self._silence = Deadline(self._fell_silent)
        self._next = self._loop.call_soon(self._attempt)

    async def close(self) -> None:
        self._release()

    def alive(self) -> bool:
        return self._device is not None or self._next is not None

    def _attempt(self) -> None:
        try:
            self._take_hold()
        except OSError as error:
            self._lose(REASONS.get(error.errno or 0, str(error)))
        except ScannerError as error:
            self._lose(f"{error}: {error.hint}")
        else:
            self._on_state(ScannerState.READING, os.path.realpath(self._path))

    def _take_hold(self) -> None:
        self._next = None
        self._device = device = self._open_device(self._path)
        if not NEEDED_KEYS.issubset(device.capabilities().get(EV_KEY, ())):
            raise ScannerError(
                "this device has no digit and Enter keys", hint="choose the one whose name ends in -event-kbd"
            )
        device.grab()
        self._framer = KeyFramer(self._framing)
        self._stale = False
        self._loop.add_reader(device.fd, self._readable, device)

    def _lose(self, why: str) -> None:
        self._release()
        self._next = self._loop.call_later(RESCAN_S, self._attempt)
        self._on_state(ScannerState.LOST, f"{self._path}: {why}")

    def _release(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._device is not None:
            self._silence.clear()
            self._loop.remove_reader(self._device.fd)
            self._device.close()
            self._device = None

    def _readable(self, device: InputDevice) -> None:
        at = time.monotonic()
        try:
            events = list(device.read())
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(REASONS.get(error.errno or 0, str(error)))
            return
        for event in events:
            if (read := self._take(event, at)) is not None:
                self._on_read(read, at)
        # After a hold-up of the loop its readers run before its timers, so a barcode that is already in the
        # kernel's buffer moves the deadline that would have cut it.
        await_silence(self._silence, self._framer, self._framing)

    def _fell_silent(self) -> None:
        self._framer.silence(time.monotonic())

    def _take(self, event: InputEvent, at: float) -> Read | None:
        if event.type == EV_SYN and event.code == SYN_DROPPED:
            self._stale = True
            self._framer.discard()
        elif event.type == EV_SYN and event.code == SYN_REPORT:
            self._stale = False
        elif event.type == EV_KEY and not self._stale:
            return self._framer.press(event.code, event.value, at)
        return None
