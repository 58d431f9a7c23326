"""What holds for every kind of pins: the fake, and the real devices on gpiozero's mock factory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from gated.errors import PinError
from gated.pins import Normally, PinFactory, Pins, open_pins
from gated.pins.fake import FakePins

RELEASE, LAMP, CONTACT = 17, 22, 24


class FakeRig:
    """The fake, driven by its own means."""

    def __init__(self) -> None:
        self.fake = FakePins(time.monotonic)
        self.pins: Pins = self.fake

    def close_contact(self, normally: Normally) -> None:
        self.fake.drive(CONTACT, normally is Normally.OPEN)

    def open_contact(self, normally: Normally) -> None:
        self.fake.drive(CONTACT, normally is Normally.CLOSED)


class MockRig:
    """The real devices, on pins in memory."""

    def __init__(self) -> None:
        self.pins = cast(Any, open_pins(PinFactory.MOCK, asyncio.get_running_loop()))
        self.contact = self.pins.factory.pin(CONTACT)

    def close_contact(self, _: Normally) -> None:
        self.contact.drive_low()

    def open_contact(self, _: Normally) -> None:
        self.contact.drive_high()


@pytest.fixture(params=[FakeRig, MockRig])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    make: Callable[[], Any] = request.param
    rig = make()
    yield rig
    rig.pins.close()


class Heard(list[tuple[bool, float]]):
    """What an input told."""

    def __call__(self, active: bool, at: float) -> None:
        self.append((active, at))

    @property
    def states(self) -> list[bool]:
        return [active for active, _ in self]


async def loop_turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("active_high", [True, False])
async def test_an_output_is_inactive_until_it_is_written(rig: Any, active_high: bool) -> None:
    output = rig.pins.output(RELEASE, active_high=active_high)
    assert (output.pin, output.active) == (RELEASE, False)
    output.write(True)
    assert output.active
    output.write(False)
    assert not output.active


async def test_a_pin_is_claimed_once(rig: Any) -> None:
    rig.pins.output(RELEASE, active_high=True)
    rig.pins.input(CONTACT, normally=Normally.OPEN, on_change=Heard())
    for pin in (RELEASE, CONTACT):
        with pytest.raises(PinError):
            rig.pins.output(pin, active_high=True)
        with pytest.raises(PinError):
            rig.pins.input(pin, normally=Normally.OPEN, on_change=Heard())


async def test_a_pin_that_failed_takes_no_other_along(rig: Any) -> None:
    output = rig.pins.output(RELEASE, active_high=True)
    with pytest.raises(PinError):
        rig.pins.output(RELEASE, active_high=True)
    output.write(True)
    assert output.active


@pytest.mark.parametrize(("normally", "broken_wire"), [(Normally.OPEN, False), (Normally.CLOSED, True)])
async def test_a_broken_wire_is_an_open_contact(rig: Any, normally: Normally, broken_wire: bool) -> None:
    contact = rig.pins.input(CONTACT, normally=normally, on_change=Heard())
    assert (contact.pin, contact.active) == (CONTACT, broken_wire)


@pytest.mark.parametrize(("normally", "when_closed"), [(Normally.OPEN, True), (Normally.CLOSED, False)])
async def test_a_contact_is_active_when_it_differs_from_its_normal_state(
    rig: Any, normally: Normally, when_closed: bool
) -> None:
    heard = Heard()
    contact = rig.pins.input(CONTACT, normally=normally, on_change=heard)
    rig.close_contact(normally)
    assert contact.active is when_closed
    rig.open_contact(normally)
    assert contact.active is not when_closed
    await loop_turns()
    assert heard.states == [when_closed, not when_closed]


async def test_a_change_comes_with_its_monotonic_time(rig: Any) -> None:
    heard = Heard()
    rig.pins.input(CONTACT, normally=Normally.OPEN, on_change=heard)
    before = time.monotonic()
    rig.close_contact(Normally.OPEN)
    after = time.monotonic()
    await loop_turns()
    ((_, at),) = heard
    assert before <= at <= after


async def test_the_state_at_the_start_is_not_told(rig: Any) -> None:
    heard = Heard()
    rig.pins.input(CONTACT, normally=Normally.CLOSED, on_change=heard)
    await loop_turns()
    assert heard == []


async def test_a_contact_that_stays_as_it_is_tells_nothing(rig: Any) -> None:
    heard = Heard()
    rig.pins.input(CONTACT, normally=Normally.OPEN, on_change=heard)
    rig.close_contact(Normally.OPEN)
    rig.close_contact(Normally.OPEN)
    await loop_turns()
    assert heard.states == [True]


async def test_closing_makes_outputs_inactive_and_ends_them(rig: Any) -> None:
    outputs = [rig.pins.output(RELEASE, active_high=True), rig.pins.output(LAMP, active_high=False)]
    for output in outputs:
        output.write(True)
    rig.pins.close()
    for output in outputs:
        assert not output.active
        with pytest.raises(PinError):
            output.write(True)


async def test_closing_ends_inputs(rig: Any) -> None:
    heard = Heard()
    contact = rig.pins.input(CONTACT, normally=Normally.OPEN, on_change=heard)
    rig.pins.close()
    rig.close_contact(Normally.OPEN)
    await loop_turns()
    assert heard == []
    with pytest.raises(PinError):
        _ = contact.active


async def test_closing_twice_is_harmless(rig: Any) -> None:
    rig.pins.output(RELEASE, active_high=True)
    rig.pins.close()
    rig.pins.close()
