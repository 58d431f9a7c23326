"""A scanner gone mad, or a line full of noise: the relay does not chatter, and the other lanes are served."""

import asyncio
from itertools import pairwise

from gated.core.events import (
    EmergencyBegan,
    LaneRules,
    Mode,
    ModeCommanded,
)
from gated.core.scan import Direction
from gated.core.verdict import Reason
from tests import virtual_time
from tests.test_lane import ENTRY, EXIT, UNKNOWN, Rig

MALFORMED = "\x07"


def test_noise_on_an_entry_opens_nothing_and_is_journalled_now_and_then() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        await rig.start()
        for _ in range(200):
            rig.scanners[0].scan(MALFORMED)
            await rig.wait(0.05)
        assert rig.released() == []
        assert rig.store.undecided == [("", Reason.MALFORMED)] * 14  # in 10 s, not 200

    virtual_time.run(act())


def test_noise_on_an_exit_that_opens_always_holds_it_open_in_whole_pulses() -> None:
    async def act(mode: Mode, every: float) -> None:
        rig = Rig()
        lane = rig.add(EXIT)
        lane.feed(ModeCommanded(mode))
        await rig.start()
        for _ in range(600):
            rig.scanners[0].scan(MALFORMED)
            await rig.wait(0.05)
        moves = rig.pins.times(17)
        assert len(moves) >= 2 * int(30 / every) - 2
        spans = [round(later - at, 2) for (at, _), (later, _) in pairwise(moves)]
        assert set(spans[0::2]) == {0.5}  # released
        assert min(spans[1::2]) >= 0.2  # relocked

    virtual_time.run(act(Mode.CONTROLLED, every=5.0))
    virtual_time.run(act(Mode.FREE, every=0.75))
    virtual_time.run(act(Mode.OUT_OF_SERVICE, every=5.0))


def test_a_ticket_is_decided_in_the_middle_of_noise() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        await rig.start()
        for number in range(300):
            rig.scanners[0].scan("A" if number == 250 else MALFORMED)
            await rig.wait(0.01)
        assert rig.store.decided == ["A"]
        assert len(rig.released()) == 1

    virtual_time.run(act())


def test_barcodes_that_come_faster_than_they_are_written_down_do_not_pile_up() -> None:
    async def act(rules: LaneRules, emergency: bool) -> None:
        rig = Rig()
        lane = rig.add(rules)
        lane.feed(EmergencyBegan() if emergency else ModeCommanded(Mode.FREE))
        rig.store.delay = 1.0
        await rig.start()
        for number in range(5000):
            rig.scanners[0].scan(f"{number}")
        await asyncio.sleep(0)
        assert lane._at_store <= 8
        await rig.wait(2.0)
        rig.scanners[0].scan("A")
        await rig.wait(2.0)
        told = [*rig.store.decided, *(barcode for barcode, _ in rig.store.undecided)]
        assert told == [*map(str, range(8)), "A"]

    virtual_time.run(act(ENTRY, emergency=False))
    virtual_time.run(act(LaneRules(Direction.EXIT, opens_always=True), emergency=True))


def test_two_scanners_of_one_lane_at_once_are_two_reads_of_which_one_waits() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        await rig.start()
        rig.scanners[0].scan("A")
        rig.scanners[0].scan("B")
        rig.scanners[0].scan("A")
        await rig.wait(7)
        assert rig.store.decided == ["A"]
        assert ("B", Reason.UNDECIDED) in rig.store.undecided  # no sensor: nobody waits

    virtual_time.run(act())


def test_of_barcodes_that_come_faster_than_any_scanner_reads_some_are_looked_at() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        rig.store.verdicts = {f"{number}": UNKNOWN for number in range(10_000)}
        await rig.start()
        for number in range(3000):
            rig.scanners[0].scan(f"{number}")
            await asyncio.sleep(0.0003)
        assert 100 < len(rig.store.decided) <= 2 * 200
        await rig.wait(1)
        await rig.scan("A")
        assert rig.store.decided[-1] == "A"

    virtual_time.run(act())


def test_while_the_disk_stalls_an_exit_opens_for_everybody_all_the_same() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(EXIT)
        rig.store.delay = 600.0
        await rig.start()
        for number in range(30):
            rig.scanners[0].scan(f"{number}")
            await rig.wait(6.0)
        assert len(rig.released()) == 30

    virtual_time.run(act())
