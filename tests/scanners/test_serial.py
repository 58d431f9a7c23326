"""Serial scanners over pseudo-terminals and sockets."""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gated.core.barcode import Malformed, MalformedWhy
from gated.scanners import Parity, ScannerState, serial
from gated.scanners.serial import SerialScanner, SerialSettings
from tests.scanners.worlds import FRAMING, Ear, PtyWorld


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PtyWorld]:
    monkeypatch.setattr(serial, "RETRY_FIRST_S", 0.01)
    world = PtyWorld(tmp_path)
    world.plug()
    yield world
    world.close()


@pytest.fixture
async def scanner(world: PtyWorld) -> AsyncIterator[SerialScanner]:
    scanner = world.scanner()
    yield scanner
    await scanner.close()


@pytest.fixture
async def ear(scanner: SerialScanner) -> Ear:
    ear = Ear()
    ear.listen(scanner)
    assert await ear.state() is ScannerState.READING
    return ear


async def lost(scanner: SerialScanner) -> str:
    """Why ``scanner`` is lost at once."""
    ear = Ear()
    ear.listen(scanner)
    state, why = await ear.news()
    await scanner.close()
    assert state is ScannerState.LOST
    return why


async def test_the_state_tells_which_port_the_name_stands_for(
    world: PtyWorld, scanner: SerialScanner
) -> None:
    ear = Ear()
    ear.listen(scanner)
    assert await ear.news() == (ScannerState.READING, str(world.link.readlink()))


async def test_nothing_is_sent_back_to_the_scanner(world: PtyWorld, ear: Ear) -> None:
    world.scan("]0;payload\n")
    await ear.read()
    assert select.select([world.line], [], [], 0) == ([], [], [])


async def test_a_barcode_may_come_byte_by_byte(world: PtyWorld, ear: Ear) -> None:
    for byte in b"TICKET\r\n":
        os.write(world.line, bytes([byte]))
        await asyncio.sleep(0)
    assert await ear.barcode() == "TICKET"


async def test_what_was_sent_before_the_port_was_open_is_not_read(
    world: PtyWorld, scanner: SerialScanner
) -> None:
    world.scan("stale")
    ear = Ear()
    ear.listen(scanner)
    await ear.state()
    world.scan("fresh")
    assert await ear.barcode() == "fresh"


async def test_a_frame_longer_than_a_terminals_line_is_malformed_once(world: PtyWorld, ear: Ear) -> None:
    await asyncio.to_thread(world.scan, "x" * 10_000)
    world.scan("good")
    assert await ear.read() == Malformed(MalformedWhy.TOO_LONG, 10_000)
    assert await ear.barcode() == "good"


async def test_a_partial_barcode_is_dropped_after_the_character_time_out(
    world: PtyWorld, scanner: SerialScanner, ear: Ear
) -> None:
    os.write(world.line, b"ABC")
    async with asyncio.timeout(2):
        while not scanner.partials:
            await asyncio.sleep(0.005)
    world.scan("DEF")
    assert await ear.barcode() == "DEF"


async def test_a_barcode_whose_rest_comes_while_the_loop_is_held_up_is_whole(
    world: PtyWorld, ear: Ear
) -> None:
    loop = asyncio.get_running_loop()
    os.write(world.line, b"ABC")
    await asyncio.sleep(0.005)

    def hold_up() -> None:
        time.sleep(FRAMING.character_timeout.total_seconds())
        # Before the timer that is due now, and after the loop has looked what can be read.
        loop.call_soon(os.write, world.line, b"DEF\r")

    loop.call_soon(hold_up)
    assert await ear.barcode() == "ABCDEF"


async def test_a_port_that_never_falls_silent_leaves_the_loop_to_others(
    world: PtyWorld, scanner: SerialScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "READ_MOST", 8)
    turns, turn_of_read = 0, []

    def another() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(another)

    loop, found = asyncio.get_running_loop(), asyncio.Event()
    scanner.start(lambda *_: turn_of_read.append(turns), lambda *_: found.set())
    await found.wait()
    loop.call_soon(another)
    os.write(world.line, b"TICKET\n\r" * 20)
    async with asyncio.timeout(2):
        while len(turn_of_read) < 20:
            await asyncio.sleep(0)
    assert len(set(turn_of_read)) == 20


async def test_half_a_barcode_is_not_joined_to_one_after_a_loss(world: PtyWorld, ear: Ear) -> None:
    os.write(world.line, b"ABC")
    await asyncio.sleep(0.005)
    world.unplug()
    world.plug()
    while await ear.state() is ScannerState.LOST:
        pass
    world.scan("DEF")
    assert await ear.barcode() == "DEF"


@pytest.mark.usefixtures("ear")
async def test_a_port_is_read_by_one_scanner_alone(world: PtyWorld) -> None:
    assert "lock" in await lost(world.scanner())


async def test_an_address_that_makes_no_sense_is_a_loss_with_its_reason() -> None:
    assert "nonsense" in await lost(SerialScanner("bad", SerialSettings("nonsense://x"), FRAMING))


async def test_the_line_is_set_as_configured() -> None:
    settings = SerialSettings("loop://", baudrate=115_200, bytesize=7, parity=Parity.SPACE, stopbits=2)
    with SerialScanner("loop", settings, FRAMING)._open() as port:
        assert (port.baudrate, port.bytesize, port.parity, port.stopbits) == (115_200, 7, "S", 2)


async def test_a_scanner_behind_a_tcp_server_is_read_and_its_end_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"socket://127.0.0.1:{server.getsockname()[1]}"
        scanner = SerialScanner("tcp", SerialSettings(address), FRAMING)
        ear = Ear()
        ear.listen(scanner)
        connection, _ = await asyncio.to_thread(server.accept)
        assert await ear.news() == (ScannerState.READING, address)
        connection.sendall(b"TICKET\r\nSECOND\r\n")
        assert [await ear.barcode() for _ in "12"] == ["TICKET", "SECOND"]
        connection.close()
        assert await ear.state() is ScannerState.LOST
        await scanner.close()


def test_a_dead_tcp_peer_is_asked_whether_it_lives() -> None:
    with socket.socket() as connection:
        serial._keep_alive(connection.fileno())
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


async def test_closing_does_not_wait_for_an_opening_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()

    def open_slowly(*_: object, **__: object) -> None:
        hang.wait()
        raise OSError("gave up")

    monkeypatch.setattr(serial.serial, "serial_for_url", open_slowly)
    monkeypatch.setattr(serial, "CLOSE_WAIT_S", 0.01)
    scanner = SerialScanner("slow", SerialSettings("socket://192.0.2.1:1"), FRAMING)
    ear = Ear()
    ear.listen(scanner)
    begun = time.monotonic()
    await scanner.close()
    assert time.monotonic() - begun < 0.2
    hang.set()
    await asyncio.wait_for(scanner._ended.wait(), 2)
    assert ear.states.empty()


async def test_the_thread_is_named_and_ends_with_the_scanner(scanner: SerialScanner, ear: Ear) -> None:
    assert "scanner-pty" in {thread.name for thread in threading.enumerate()}
    await scanner.close()
    assert "scanner-pty" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_when_its_loop_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    def open_late(*_: object, **__: object) -> None:
        gone.wait()
        raise OSError("not there")

    async def start() -> None:
        Ear().listen(scanner)

    monkeypatch.setattr(serial.serial, "serial_for_url", open_late)
    scanner = SerialScanner("late", SerialSettings("/dev/nothing"), FRAMING)
    asyncio.run(start())
    assert scanner.alive()
    gone.set()
    scanner._thread.join(2)
    assert not scanner.alive()
