"""The real devices on gpiozero's mock factory: the levels at the pin, and the threads."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from gated.errors import PinError
from gated.pins import Normally, PinFactory, open_pins

RELEASE, CONTACT = 17, 24


@pytest.fixture
async def pins() -> Any:
    return open_pins(PinFactory.MOCK, asyncio.get_running_loop())


@pytest.mark.parametrize(("active_high", "levels"), [(True, [0, 1, 0]), (False, [1, 0, 1])])
async def test_active_is_high_or_low_as_it_is_wired(pins: Any, active_high: bool, levels: list[int]) -> None:
    output = pins.output(RELEASE, active_high=active_high)
    pin = pins.factory.pin(RELEASE)
    pin.clear_states()
    output.write(True)
    output.write(False)
    assert [state.state for state in pin.states] == levels


@pytest.mark.parametrize(("active_high", "safe"), [(True, False), (False, True)])
async def test_closing_leaves_the_safe_level(pins: Any, active_high: bool, safe: bool) -> None:
    output = pins.output(RELEASE, active_high=active_high)
    output.write(True)
    pin = pins.factory.pin(RELEASE)
    pins.close()
    assert pin.state is safe


@pytest.mark.parametrize("active_high", [True, False])
async def test_a_line_that_reads_as_it_was_written_is_confirmed(pins: Any, active_high: bool) -> None:
    output = pins.output(RELEASE, active_high=active_high)
    output.confirm()
    output.write(True)
    output.confirm()
    output.write(False)
    output.confirm()


@pytest.mark.parametrize("active_high", [True, False])
@pytest.mark.parametrize(
    ("written", "told"),
    [
        (True, "GPIO17 was made active and reads inactive"),
        (False, "GPIO17 was made inactive and reads active"),
    ],
)
async def test_a_line_that_reads_otherwise_is_a_fault(
    pins: Any, active_high: bool, written: bool, told: str
) -> None:
    output = pins.output(RELEASE, active_high=active_high)
    output.write(written)
    pins.factory.pin(RELEASE)._change_state(written is not active_high)
    with pytest.raises(PinError, match=told) as caught:
        output.confirm()
    assert "short" in caught.value.hint


async def test_an_input_driven_from_another_thread_is_told_on_the_loop(pins: Any) -> None:
    told: asyncio.Future[tuple[bool, asyncio.AbstractEventLoop]] = asyncio.Future()
    pins.input(
        CONTACT,
        normally=Normally.OPEN,
        on_change=lambda active, _: told.set_result((active, asyncio.get_running_loop())),
    )
    await asyncio.to_thread(pins.factory.pin(CONTACT).drive_low)
    assert await asyncio.wait_for(told, 1) == (True, asyncio.get_running_loop())


async def test_an_input_is_never_told_in_the_middle_of_something_else(pins: Any) -> None:
    heard: list[bool] = []
    pins.input(CONTACT, normally=Normally.OPEN, on_change=lambda active, _: heard.append(active))
    pins.factory.pin(CONTACT).drive_low()
    assert heard == []


async def test_mock_pins_are_not_shared_and_not_gpiozeros_default() -> None:
    from gpiozero import Device

    loop = asyncio.get_running_loop()
    one, other = open_pins(PinFactory.MOCK, loop), open_pins(PinFactory.MOCK, loop)
    one.output(RELEASE, active_high=True)
    other.output(RELEASE, active_high=True)
    assert Device.pin_factory is None


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "native")
    monkeypatch.setenv("GPIOZERO_MOCK_PIN_CLASS", "mockpwmpin")
    monkeypatch.setenv("GPIOZERO_MOCK_REVISION", "000f")
    pins: Any = open_pins(PinFactory.MOCK, asyncio.get_running_loop())
    assert type(pins.factory.pin(RELEASE)).__name__ == "MockPin"
    assert pins.factory.board_info.model == "3B"


def test_gpiozero_and_lgpio_are_not_imported_before_pins_are_opened() -> None:
    script = "import sys, gated.pins.player, gated.pins.fake; print({'gpiozero', 'lgpio'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
