"""Contacts that bounce, and an emergency that does not wait for that."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gated.contacts import Contact, EmergencyInput
from gated.core.emergency import Came
from gated.errors import PinError
from gated.pins import Normally
from gated.pins.fake import FakePins
from tests.virtual_time import loop, run

PIN = 27
ACTIVE, NORMAL = True, False
BEGAN, LATCHED, DISTURBED, ENDED = Came.BEGAN, Came.LATCHED, Came.DISTURBED, Came.ENDED


def contact(
    changes: list[tuple[float, bool]], normally: Normally = Normally.OPEN, *, first: bool = NORMAL
) -> list[float]:
    """Drives a contact at those times in milliseconds; returns the times in ms of what was told."""

    async def play() -> list[float]:
        pins, since, told = FakePins(loop().time), loop().time(), []
        pins.driven[PIN] = first
        Contact(pins, PIN, normally, told.append)
        for at, active in changes:
            await asyncio.sleep(since + at / 1000 - loop().time())
            pins.drive(PIN, active)
        await asyncio.sleep(1)
        return [round((at - since) * 1000) for at in told]

    return run(play())


@pytest.mark.parametrize("normally", Normally)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([(10, ACTIVE)], [10]),
        ([(10, ACTIVE), (310, NORMAL)], [10]),
        ([(10, ACTIVE), (12, NORMAL), (13, ACTIVE), (17, NORMAL), (18, ACTIVE), (310, NORMAL)], [18]),
        ([(10, ACTIVE), (310, NORMAL), (312, ACTIVE), (313, NORMAL), (330, ACTIVE), (332, NORMAL)], [10]),
        ([(10, ACTIVE), (310, NORMAL), (600, ACTIVE), (900, NORMAL)], [10, 600]),
        ([(10, ACTIVE), (15, NORMAL)], []),
        ([(10, ACTIVE), (310, NORMAL), (320, ACTIVE), (600, NORMAL)], [10]),
    ],
    ids=[
        "one edge",
        "a pulse",
        "bouncing when it closes",
        "bouncing when it opens",
        "two pulses",
        "too short for a contact",
        "a gap too short for a contact",
    ],
)
def test_each_closing_of_a_contact_is_told_once(
    changes: list[tuple[float, bool]], told: list[float], normally: Normally
) -> None:
    assert contact(changes, normally) == told


def test_a_contact_is_told_once_it_has_been_still_for_twenty_milliseconds() -> None:
    async def play() -> None:
        pins, told = FakePins(loop().time), []
        Contact(pins, PIN, Normally.OPEN, told.append)
        pins.drive(PIN, ACTIVE)
        await asyncio.sleep(0.019)
        assert told == []
        await asyncio.sleep(0.002)
        assert told == [1000.0]

    run(play())


def test_a_contact_that_is_active_at_the_start_is_told_when_it_becomes_active_again() -> None:
    assert contact([(100, NORMAL), (200, ACTIVE)], first=ACTIVE) == [200]


def test_an_open_wire_at_a_normally_closed_contact_is_active_from_the_start() -> None:
    async def play() -> None:
        pins, told = FakePins(loop().time), []
        Contact(pins, PIN, Normally.CLOSED, told.append)
        pins.drive(PIN, NORMAL)
        await asyncio.sleep(0.1)
        assert told == []
        pins.drive(PIN, ACTIVE)
        await asyncio.sleep(0.1)
        assert len(told) == 1

    run(play())


def test_a_closed_contact_tells_nothing_even_if_it_was_about_to_and_changes_again() -> None:
    async def play() -> None:
        pins, told = FakePins(loop().time), []
        made = Contact(pins, PIN, Normally.OPEN, told.append)
        pins.drive(PIN, ACTIVE)
        made.close()
        await asyncio.sleep(0.1)
        pins.drive(PIN, NORMAL)
        await asyncio.sleep(0.1)
        pins.drive(PIN, ACTIVE)
        await asyncio.sleep(0.1)
        assert told == []

    run(play())


def test_a_pin_that_can_not_be_claimed_is_an_error() -> None:
    async def play() -> None:
        pins = FakePins(loop().time)
        pins.broken.add(PIN)
        with pytest.raises(PinError):
            Contact(pins, PIN, Normally.OPEN, lambda _: None)
        with pytest.raises(PinError):
            emergency().claim(pins, PIN, Normally.CLOSED)

    run(play())


# The emergency


def emergency(*, latched: bool = False, automatic: bool = False) -> EmergencyInput:
    return EmergencyInput(latched=latched, automatic=automatic, monotonic=loop().time)


class Wired:
    """An emergency input on fake pins, watched from the start."""

    def __init__(self, *, latched: bool = False, automatic: bool = False, active: bool = NORMAL) -> None:
        self.pins = FakePins(loop().time)
        self.pins.driven[PIN] = active
        self.told: list[Came] = []
        self.input = emergency(latched=latched, automatic=automatic)
        self.input.claim(self.pins, PIN, Normally.CLOSED)
        self.input.watch(self.told.append)

    async def be(self, active: bool, seconds: float) -> None:
        self.pins.drive(PIN, active)
        await asyncio.sleep(seconds)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    run(main())


def test_the_first_edge_tells_of_the_emergency_at_once() -> None:
    async def scenario() -> None:
        wired = Wired()
        wired.pins.drive(PIN, ACTIVE)
        assert wired.told == [BEGAN]
        assert wired.input.state.on

    play(scenario)


@pytest.mark.parametrize(
    ("active_for", "told", "on"),
    [
        (0.001, [BEGAN, DISTURBED], False),
        (0.099, [BEGAN, DISTURBED], False),
        (0.101, [BEGAN, LATCHED], True),
        (30, [BEGAN, LATCHED], True),
    ],
)
def test_what_is_active_for_less_than_a_tenth_of_a_second_does_not_latch(
    active_for: float, told: list[Came], on: bool
) -> None:
    async def scenario() -> None:
        wired = Wired()
        await wired.be(ACTIVE, active_for)
        await wired.be(NORMAL, 30)
        assert wired.told == told
        assert wired.input.state.on is on

    play(scenario)


def test_it_latches_while_the_input_is_still_active_and_even_if_that_is_told_again_and_again() -> None:
    async def scenario() -> None:
        wired = Wired()
        wired.pins.drive(PIN, ACTIVE)
        for _ in range(4):
            await asyncio.sleep(0.05)
            wired.pins.inputs[PIN].on_change(ACTIVE, loop().time())
        assert wired.told == [BEGAN, LATCHED]

    play(scenario)


def test_it_latches_by_the_times_of_the_edges_if_the_loop_was_blocked_meanwhile() -> None:
    async def scenario() -> None:
        wired = Wired()
        changed = wired.pins.inputs[PIN].on_change
        began = loop().time()
        loop().block(5)
        changed(ACTIVE, began)
        changed(NORMAL, began + 0.05)
        assert wired.told == [BEGAN, DISTURBED]
        changed(ACTIVE, began + 1)
        changed(NORMAL, began + 1.2)
        assert wired.told == [BEGAN, DISTURBED, BEGAN, LATCHED]

    play(scenario)


def test_nothing_ends_an_emergency_while_its_input_is_active() -> None:
    async def scenario() -> None:
        for automatic in (False, True):
            wired = Wired(automatic=automatic)
            await wired.be(ACTIVE, 3600)
            assert wired.input.reset() == "the emergency input is still active"
            assert wired.told == [BEGAN, LATCHED]

    play(scenario)


def test_a_reset_by_hand_ends_it_once_the_input_has_been_normal_for_two_seconds() -> None:
    async def scenario() -> None:
        wired = Wired()
        await wired.be(ACTIVE, 1)
        await wired.be(NORMAL, 1.99)
        assert "less than 2 s" in wired.input.reset()
        await asyncio.sleep(0.02)
        assert wired.told == [BEGAN, LATCHED]
        assert wired.input.reset() == ""
        assert wired.told == [BEGAN, LATCHED, ENDED]
        assert wired.input.reset() == "there is no emergency"

    play(scenario)


def test_an_automatic_one_ends_by_itself_two_seconds_after_the_input_has_become_normal() -> None:
    async def scenario() -> None:
        wired = Wired(automatic=True)
        await wired.be(ACTIVE, 1)
        await wired.be(NORMAL, 1.9)
        await wired.be(ACTIVE, 1)  # counted anew from here
        await wired.be(NORMAL, 1.99)
        assert wired.told == [BEGAN, LATCHED]
        await asyncio.sleep(0.03)
        assert wired.told == [BEGAN, LATCHED, ENDED]
        assert not wired.input.state.on

    play(scenario)


def test_an_input_that_is_active_at_the_claim_is_an_emergency_then_and_told_to_who_watches_later() -> None:
    async def scenario() -> None:
        pins = FakePins(loop().time)  # nothing wired: a broken loop
        made, told = emergency(), []
        made.claim(pins, PIN, Normally.CLOSED)
        assert made.state.on
        await asyncio.sleep(1)
        made.watch(told.append)
        assert told == [BEGAN, LATCHED]

    play(scenario)


def test_nothing_that_came_between_the_claim_and_the_watch_is_lost() -> None:
    async def scenario() -> None:
        pins = FakePins(loop().time)
        pins.driven[PIN] = NORMAL
        made, told = emergency(), []
        made.claim(pins, PIN, Normally.CLOSED)
        pins.drive(PIN, ACTIVE)
        await asyncio.sleep(0.05)
        pins.drive(PIN, NORMAL)
        made.watch(told.append)
        pins.drive(PIN, ACTIVE)
        assert told == [BEGAN, DISTURBED, BEGAN]

    play(scenario)


def test_a_latch_on_disk_holds_over_a_start_until_it_is_reset() -> None:
    async def scenario() -> None:
        wired = Wired(latched=True)
        assert wired.input.state.on
        assert "less than 2 s" in wired.input.reset()  # who knows for how long it has been normal
        await asyncio.sleep(60)
        assert wired.told == []
        assert wired.input.reset() == ""
        assert wired.told == [ENDED]

    play(scenario)


def test_a_latch_on_disk_of_an_automatic_one_ends_two_seconds_after_the_start() -> None:
    async def scenario() -> None:
        wired = Wired(latched=True, automatic=True)
        await asyncio.sleep(1.9)
        assert wired.told == []
        await asyncio.sleep(0.2)
        assert wired.told == [ENDED]

    play(scenario)


def test_a_latch_on_disk_can_be_reset_after_the_input_was_taken_from_the_configuration() -> None:
    async def scenario() -> None:
        made, told = emergency(latched=True), []
        made.watch(told.append)
        assert made.reset() == ""
        assert told == [ENDED]

    play(scenario)


def test_a_closed_input_tells_nothing() -> None:
    async def scenario() -> None:
        wired = Wired()
        await wired.be(ACTIVE, 0.01)
        wired.input.close()
        await asyncio.sleep(1)
        await wired.be(NORMAL, 1)
        await wired.be(ACTIVE, 1)
        assert wired.told == [BEGAN]

    play(scenario)
