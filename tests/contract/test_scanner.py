"""What every scanner promises, asked of the fake and of the real ones alike."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gated.core.barcode import LONGEST, Malformed, MalformedWhy
from gated.scanners import Scanner, ScannerState, hid, serial
from tests.scanners.worlds import WORLDS, Ear, World


@pytest.fixture(params=WORLDS, ids=lambda world: world.__name__)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(serial, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(hid, "RESCAN_S", 0.01)
    world = request.param(tmp_path)
    yield world
    world.close()


@pytest.fixture
async def scanner(world: World) -> AsyncIterator[Scanner]:
    scanner = world.scanner()
    yield scanner
    await scanner.close()


@pytest.fixture
async def ear(world: World, scanner: Scanner) -> Ear:
    """Of a scanner that is plugged in and reading."""
    world.plug()
    ear = Ear()
    ear.listen(scanner)
    assert await ear.state() is ScannerState.READING
    return ear


async def test_a_barcode_is_read_with_the_time_it_ended(world: World, ear: Ear) -> None:
    before = time.monotonic()
    world.scan("CMBarcode-123")
    assert await ear.barcode() == "CMBarcode-123"
    world.scan("second")
    _, at = await ear.reads.get()
    assert before <= at <= time.monotonic()


async def test_barcodes_come_in_the_order_they_were_scanned(world: World, ear: Ear) -> None:
    texts = [f"ticket {n}" for n in range(20)]
    for text in texts:
        world.scan(text)
    assert [await ear.barcode() for _ in texts] == texts


async def test_malformed_reads_are_told_and_the_next_is_read(world: World, ear: Ear) -> None:
    world.scan("x" * (LONGEST + 1))
    assert await ear.read() == Malformed(MalformedWhy.TOO_LONG, LONGEST + 1)
    world.scan("good")
    assert await ear.barcode() == "good"


async def test_a_scanner_that_is_absent_at_the_start_is_lost_and_then_found(
    world: World, scanner: Scanner
) -> None:
    ear = Ear()
    ear.listen(scanner)
    state, why = await ear.news()
    assert state is ScannerState.LOST
    assert why
    assert scanner.alive()
    world.plug()
    assert await ear.state() is ScannerState.READING
    world.scan("found")
    assert await ear.barcode() == "found"


async def test_a_scanner_that_is_unplugged_is_lost_alive_and_read_again_when_it_returns(
    world: World, scanner: Scanner, ear: Ear
) -> None:
    for number in range(2):
        world.unplug()
        assert await ear.state() is ScannerState.LOST
        assert scanner.alive()
        world.plug()
        while await ear.state() is ScannerState.LOST:  # unplugged, and then: not there
            pass
        world.scan(f"again {number}")
        assert await ear.barcode() == f"again {number}"


async def test_a_lasting_loss_is_told_once(world: World, ear: Ear) -> None:
    world.unplug()
    await asyncio.sleep(0.06)
    told = [ear.states.get_nowait() for _ in range(ear.states.qsize())]
    assert len(told) == len(set(told)) <= 2


async def test_nothing_is_told_after_closing(world: World, scanner: Scanner, ear: Ear) -> None:
    world.scan("too late")
    time.sleep(0.02)  # a thread may have read it; the loop has not heard of it
    while not ear.reads.empty():  # the fake is heard at once
        ear.reads.get_nowait()
    await scanner.close()
    world.scan("later still")
    world.unplug()
    await asyncio.sleep(0.01)
    assert ear.reads.empty()
    assert ear.states.empty()
    assert not scanner.alive()


@pytest.mark.parametrize("plugged", [True, False])
async def test_closing_takes_less_than_half_a_second(world: World, scanner: Scanner, plugged: bool) -> None:
    if plugged:
        world.plug()
    ear = Ear()
    ear.listen(scanner)
    await ear.state()
    begun = time.monotonic()
    await scanner.close()
    await scanner.close()
    assert time.monotonic() - begun < 0.5
    assert not scanner.alive()
