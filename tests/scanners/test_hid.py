"""HID scanners over recorded events."""

import asyncio
import ctypes
import errno
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from gated.core.barcode import KEY_LEFTSHIFT, Malformed, MalformedWhy
from gated.scanners import ScannerState, hid
from gated.scanners.hid import EV_KEY, EV_SYN, SYN_DROPPED, HidScanner, InputDevice
from tests import virtual_time
from tests.scanners.keys import tap, typed
from tests.scanners.worlds import FRAMING, Ear, Event, RecordedDevice, reports

DROPPED = Event(EV_SYN, SYN_DROPPED, 0)
NAME = "/dev/input/by-id/scanner"


@pytest.fixture(autouse=True)
def rescan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hid, "RESCAN_S", 0.01)


@pytest.fixture
def device() -> RecordedDevice:
    return RecordedDevice()


@pytest.fixture
async def scanner(device: RecordedDevice) -> AsyncIterator[HidScanner]:
    scanner = HidScanner("hid", NAME, FRAMING, lambda _: device)
    yield scanner
    await scanner.close()


@pytest.fixture
async def ear(scanner: HidScanner) -> Ear:
    ear = Ear()
    ear.listen(scanner)
    assert await ear.state() is ScannerState.READING
    return ear


def failing(number: int) -> Callable[[str], InputDevice]:
    def open_device(path: str) -> InputDevice:
        raise OSError(number, os.strerror(number), path)

    return open_device


async def lost(scanner: HidScanner) -> str:
    """Why ``scanner`` is lost at once."""
    ear = Ear()
    ear.listen(scanner)
    state, why = await ear.news()
    assert scanner.alive()
    await scanner.close()
    assert state is ScannerState.LOST
    return why


async def test_a_device_is_grabbed_before_it_is_first_read(device: RecordedDevice, ear: Ear) -> None:
    device.play(reports(typed("TICKET")))
    assert await ear.barcode() == "TICKET"
    assert device.history[:2] == ["grab", "read"]


async def test_a_device_that_another_program_has_grabbed_is_never_read(
    device: RecordedDevice, scanner: HidScanner
) -> None:
    device.grabbed_elsewhere = True
    assert await lost(scanner) == f"{NAME}: grabbed by another program"
    assert device.history == ["grab", "close"]


async def test_a_device_is_read_once_the_other_program_lets_it_go() -> None:
    taken, free = RecordedDevice(), RecordedDevice()
    taken.grabbed_elsewhere = True
    devices = [taken, free]
    scanner = HidScanner("hid", NAME, FRAMING, lambda _: devices.pop(0))
    ear = Ear()
    ear.listen(scanner)
    assert [await ear.state(), await ear.state()] == [ScannerState.LOST, ScannerState.READING]
    await scanner.close()


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOENT, "not there"),
        (errno.ENOTTY, "not an event device"),
        (errno.EACCES, "permission denied: is gated in the group input?"),
        (errno.EMFILE, "[Errno 24] Too many open files: '/dev/input/by-id/scanner'"),
    ],
)
async def test_a_device_that_can_not_be_opened_is_lost_with_its_reason(number: int, why: str) -> None:
    assert await lost(HidScanner("hid", NAME, FRAMING, failing(number))) == f"{NAME}: {why}"


async def test_a_node_without_digits_and_enter_is_not_the_scanners(
    device: RecordedDevice, scanner: HidScanner
) -> None:
    device.keys = [113, 114, 115]  # the volume keys of a composite device
    assert "-event-kbd" in await lost(scanner)
    assert device.history == ["close"]


async def test_without_evdev_the_scanner_is_lost_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evdev", None)
    assert "apt install python3-evdev" in await lost(HidScanner("hid", NAME, FRAMING))


class Evdev:
    """As much of python-evdev as opens a device: the file itself."""

    class InputDevice:
        def __init__(self, path: str) -> None:
            self.fd = os.open(path, os.O_RDONLY)


def test_the_kernel_is_asked_to_keep_nothing_but_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def ioctl(fd: int, number: int, mask: bytes) -> None:
        assert number == 0x40104593  # EVIOCSMASK, as a C compiler makes it of linux/input.h
        kind, size, address = struct.unpack("=IIQ", mask)
        asked.append((kind, size, int.from_bytes(ctypes.string_at(address, size), "little")))

    monkeypatch.setitem(sys.modules, "evdev", Evdev)
    monkeypatch.setattr("gated.scanners.hid.fcntl.ioctl", ioctl)
    device = hid.open_evdev(os.devnull)
    assert asked == [(0, 8, 1 << EV_SYN | 1 << EV_KEY)]
    os.close(device.fd)


def test_a_kernel_that_can_not_mask_is_no_reason_not_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evdev", Evdev)
    device = hid.open_evdev(os.devnull)  # which refuses every ioctl
    os.close(device.fd)


async def test_an_unplugged_device_is_closed(device: RecordedDevice, ear: Ear) -> None:
    device.pull()
    assert await ear.news() == (ScannerState.LOST, f"{NAME}: unplugged")
    assert device.history[-1] == "close"


async def test_half_a_barcode_is_not_joined_to_one_after_a_loss() -> None:
    before, after = RecordedDevice(), RecordedDevice()
    devices = [before, after]
    scanner = HidScanner("hid", NAME, FRAMING, lambda _: devices.pop(0))
    ear = Ear()
    ear.listen(scanner)
    before.play(reports([*tap(2), (KEY_LEFTSHIFT, 1)]))
    await asyncio.sleep(0.005)
    before.pull()
    after.play(reports(typed("def")))
    assert await ear.barcode() == "def"
    await scanner.close()


async def test_when_the_kernel_dropped_events_the_barcode_under_way_is_malformed(
    device: RecordedDevice, ear: Ear
) -> None:
    device.play([*reports(tap(2)), DROPPED, *reports(typed("bc"))])
    device.play(reports(typed("next")))
    assert await ear.read() == Malformed(MalformedWhy.KEYS_LOST, 1)  # the "b" is stale
    assert await ear.barcode() == "next"


async def test_an_enter_between_a_drop_and_the_next_report_ends_nothing(
    device: RecordedDevice, ear: Ear
) -> None:
    device.play([DROPPED, *reports(typed("")), *reports(typed("b"))])
    assert await ear.read() == Malformed(MalformedWhy.KEYS_LOST, 1)
    assert ear.reads.empty()


async def test_a_partial_barcode_is_dropped_after_the_character_time_out(
    device: RecordedDevice, scanner: HidScanner, ear: Ear
) -> None:
    device.play(reports([*tap(2), *tap(3)]))
    async with asyncio.timeout(2):
        while not scanner.partials:
            await asyncio.sleep(0.005)
    device.play(reports(typed("DEF")))
    assert await ear.barcode() == "DEF"


def test_a_loop_that_was_held_up_does_not_cut_a_barcode_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        monkeypatch.setattr(hid, "time", SimpleNamespace(monotonic=virtual_time.loop().time))
        device, ear = RecordedDevice(), Ear()
        scanner = HidScanner("hid", NAME, FRAMING, lambda _: device)
        ear.listen(scanner)
        assert await ear.state() is ScannerState.READING
        events = reports(typed("ABCDEF"))
        device.play(events[:8])
        await asyncio.sleep(0.001)
        device.play(events[8:16])
        virtual_time.loop().block(1.5 * FRAMING.character_timeout.total_seconds())
        await asyncio.sleep(0.001)
        device.play(events[16:])
        assert await ear.barcode() == "ABCDEF"
        await scanner.close()

    virtual_time.run(act())
