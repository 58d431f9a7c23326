"""The lgpio factory on a stub of lgpio that records its calls and simulates a few lines."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gated.errors import PinError
from gated.pins import Normally, PinFactory, Pins, open_pins
from tests.pins.test_chip import PI_4, RP1, machine

CHIP, HANDLE = 4, 4 << 16
RELEASE, LAMP, CONTACT = 17, 22, 24
IS_OUTPUT, PULL_UP = 2, 32
PULL_DOWN, PULL_NONE = 64, 128


class Refused(Exception):
    """Stands for ``lgpio.error``."""


@dataclass
class Callback:
    lgpio: "Lgpio"
    gpio: int
    func: Callable[[int, int, int, int], None]

    def cancel(self) -> None:
        self.lgpio.callbacks.remove(self)


class Lgpio(ModuleType):
    """As much of lgpio 0.2.2 as is used."""

    BOTH_EDGES, RISING_EDGE, FALLING_EDGE = 3, 1, 2
    SET_PULL_UP, SET_PULL_DOWN, SET_PULL_NONE = PULL_UP, PULL_DOWN, PULL_NONE
    error = Refused

    def __init__(self) -> None:
        super().__init__("lgpio")
        self.calls: list[tuple[Any, ...]] = []
        self.levels: dict[int, int] = {}
        self.modes: dict[int, int] = {}
        self.busy: set[int] = set()
        self.stuck: dict[int, int] = {}
        self.slow: set[int] = set()
        self.callbacks: list[Callback] = []
        self.open: bool | None = None

    def gpiochip_open(self, chip: int) -> int:
        if self.open is False:
            raise Refused("can not open gpiochip")
        self.open = True
        self.calls.append(("open", chip))
        return chip << 16

    def gpiochip_close(self, handle: int) -> int:
        self.calls.append(("close", handle))
        return 0

    def gpio_claim_output(self, handle: int, gpio: int, level: int = 0, flags: int = 0) -> int:
        self._claim(gpio, IS_OUTPUT | flags, level)
        self.calls.append(("claim_output", handle, gpio, level, flags))
        return 0

    def gpio_claim_alert(self, handle: int, gpio: int, edges: int, flags: int = 0) -> int:
        self._claim(gpio, flags, 1 if flags & PULL_UP else 0)
        self.calls.append(("claim_alert", handle, gpio, edges, flags))
        return 0

    def gpio_claim_input(self, handle: int, gpio: int, flags: int = 0) -> int:
        raise AssertionError("an input is claimed with its edges, an output as an output")

    def _claim(self, gpio: int, mode: int, level: int) -> None:
        if gpio in self.busy or gpio in self.modes:
            raise Refused("GPIO busy")
        self.modes[gpio], self.levels[gpio] = mode, level

    def gpio_free(self, _handle: int, gpio: int) -> int:
        if gpio not in self.modes:
            raise Refused("GPIO not allocated")
        del self.modes[gpio]
        self.calls.append(("free", gpio))
        return 0

    def gpio_get_mode(self, _handle: int, gpio: int) -> int:
        return self.modes[gpio]

    def gpio_read(self, _handle: int, gpio: int) -> int:
        if gpio in self.slow:
            self.slow.remove(gpio)
            return 1 - self.levels[gpio]
        return self.stuck.get(gpio, self.levels[gpio])

    def gpio_write(self, _handle: int, gpio: int, level: int) -> int:
        if gpio in self.busy:
            raise Refused("bad write")
        self.levels[gpio] = int(level)
        self.calls.append(("write", gpio, int(level)))
        return 0

    def callback(
        self, _handle: int, gpio: int, _edges: int, func: Callable[[int, int, int, int], None]
    ) -> Callback:
        self.callbacks.append(Callback(self, gpio, func))
        return self.callbacks[-1]

    def edge(self, gpio: int, level: int, seconds: float) -> None:
        """What lgpio's thread does when the kernel saw an edge. It raises what a callback raises."""
        self.levels[gpio] = level
        for callback in list(self.callbacks):
            if callback.gpio == gpio:
                callback.func(CHIP, gpio, level, round(seconds * 1e9))


@pytest.fixture
def lgpio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lgpio]:
    stub = Lgpio()
    monkeypatch.setitem(sys.modules, "lgpio", stub)
    yield stub
    # They hold on to the stub that they were imported with.
    for name in ("gated.pins.quiet", "gpiozero.pins.lgpio"):
        sys.modules.pop(name, None)


@pytest.fixture
async def pins(lgpio: Lgpio, tmp_path: Path) -> Any:
    opened = open_pins(
        PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: b"x\0", CHIP: RP1})
    )
    assert lgpio.calls.pop(0) == ("open", CHIP)
    return opened


def ignore(_active: bool, _at: float) -> None: ...


@pytest.mark.parametrize(("active_high", "safe"), [(True, 0), (False, 1)])
async def test_an_output_is_claimed_in_one_call_at_its_safe_level(
    pins: Pins, lgpio: Lgpio, active_high: bool, safe: int
) -> None:
    output = pins.output(RELEASE, active_high=active_high)
    assert lgpio.calls == [("claim_output", HANDLE, RELEASE, safe, 0)]
    output.write(True)
    output.write(False)
    assert lgpio.calls[1:] == [("write", RELEASE, 1 - safe), ("write", RELEASE, safe)]


async def test_an_input_is_claimed_in_one_call_with_its_pull_up_and_edges(pins: Pins, lgpio: Lgpio) -> None:
    pins.input(CONTACT, normally=Normally.OPEN, on_change=ignore)
    assert lgpio.calls == [("claim_alert", HANDLE, CONTACT, Lgpio.BOTH_EDGES, PULL_UP)]


async def test_closing_makes_every_output_safe_before_any_pin_is_let_go(pins: Pins, lgpio: Lgpio) -> None:
    pins.input(CONTACT, normally=Normally.CLOSED, on_change=ignore)
    pins.output(RELEASE, active_high=True).write(True)
    pins.output(LAMP, active_high=False).write(True)
    lgpio.calls.clear()
    pins.close()
    assert lgpio.calls == [
        ("write", RELEASE, 0),
        ("write", LAMP, 1),
        ("free", RELEASE),
        ("free", LAMP),
        ("free", CONTACT),
        ("close", HANDLE),
    ]
    assert lgpio.callbacks == []
    pins.close()
    assert lgpio.calls[-1] == ("close", HANDLE)
    assert len(lgpio.calls) == 6


async def test_an_output_that_can_not_be_made_safe_keeps_no_other_from_it(
    pins: Pins, lgpio: Lgpio, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = pins.output(RELEASE, active_high=True), pins.output(LAMP, active_high=True)
    broken.write(True)
    sound.write(True)
    lgpio.busy.add(RELEASE)
    pins.close()
    assert lgpio.levels == {RELEASE: 1, LAMP: 0}
    assert not lgpio.modes
    assert "writing GPIO17" in caplog.text


async def test_a_pin_another_program_has_is_an_error_that_names_it(pins: Pins, lgpio: Lgpio) -> None:
    lgpio.busy.add(RELEASE)
    with pytest.raises(PinError, match=r"claiming GPIO17 as an output: .*GPIO busy"):
        pins.output(RELEASE, active_high=True)
    with pytest.raises(PinError, match=r"claiming GPIO17 as an input: .*GPIO busy"):
        pins.input(RELEASE, normally=Normally.OPEN, on_change=ignore)
    pins.close()
    assert lgpio.calls == [("close", HANDLE)]


async def test_a_pin_whose_claim_failed_can_be_claimed_later(pins: Pins, lgpio: Lgpio) -> None:
    lgpio.busy.add(RELEASE)
    with pytest.raises(PinError) as failed:
        pins.output(RELEASE, active_high=True)
    lgpio.busy.clear()
    pins.output(RELEASE, active_high=True).write(True)
    assert lgpio.levels[RELEASE] == 1
    assert failed  # it holds on to gpiozero's device to the end of the test


async def test_two_factories_share_nothing(pins: Any, lgpio: Lgpio, tmp_path: Path) -> None:
    other: Any = open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=tmp_path)
    assert other.factory.pins is not pins.factory.pins
    assert other.factory._res_lock is not pins.factory._res_lock


async def test_an_output_that_can_not_be_written_is_an_error_and_stays_as_it_was(
    pins: Pins, lgpio: Lgpio
) -> None:
    output = pins.output(RELEASE, active_high=True)
    lgpio.busy.add(RELEASE)
    with pytest.raises(PinError, match="writing GPIO17"):
        output.write(True)
    assert not output.active


async def test_an_output_is_confirmed_by_the_level_of_its_line(pins: Pins, lgpio: Lgpio) -> None:
    output = pins.output(RELEASE, active_high=False)
    output.confirm()
    lgpio.stuck[RELEASE] = 0
    with pytest.raises(PinError, match="GPIO17 was made inactive and reads active"):
        output.confirm()
    output.write(True)
    output.confirm()


async def test_a_line_that_follows_slowly_is_no_fault(pins: Pins, lgpio: Lgpio) -> None:
    output = pins.output(RELEASE, active_high=True)
    output.write(True)
    lgpio.slow.add(RELEASE)
    output.confirm()


async def test_a_line_that_can_not_be_read_is_an_error(
    pins: Pins, lgpio: Lgpio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int, _gpio: int) -> int:
        raise Refused("no chip")

    output = pins.output(RELEASE, active_high=True)
    monkeypatch.setattr(lgpio, "gpio_read", fail)
    with pytest.raises(PinError, match="reading GPIO17: no chip"):
        output.confirm()


async def test_a_pin_that_the_header_does_not_have_is_an_error(pins: Pins) -> None:
    with pytest.raises(PinError, match="99"):
        pins.output(99, active_high=True)


async def test_a_machine_that_is_no_pi_names_its_pins_like_one(pins: Pins) -> None:
    for pin in range(2, 28):
        pins.output(pin, active_high=True)
    pins.close()


async def test_edges_cross_from_lgpios_thread_to_the_loop_with_the_kernels_time(
    pins: Pins, lgpio: Lgpio
) -> None:
    heard: list[tuple[bool, float, threading.Thread]] = []
    contact = pins.input(
        CONTACT,
        normally=Normally.CLOSED,
        on_change=lambda active, at: heard.append((active, at, threading.current_thread())),
    )
    assert contact.active
    await asyncio.to_thread(lgpio.edge, CONTACT, 0, 100.25)
    await asyncio.to_thread(lgpio.edge, CONTACT, 1, 100.5)
    await asyncio.sleep(0)
    main = threading.current_thread()
    assert heard == [(False, 100.25, main), (True, 100.5, main)]


async def test_an_edge_after_closing_harms_nothing(pins: Pins, lgpio: Lgpio) -> None:
    heard: list[bool] = []
    pins.input(CONTACT, normally=Normally.OPEN, on_change=lambda active, _: heard.append(active))
    (callback,) = lgpio.callbacks
    callback.func(CHIP, CONTACT, 0, 1)
    pins.close()
    callback.func(CHIP, CONTACT, 1, 2)
    await asyncio.sleep(0)
    assert heard == []


def test_an_edge_after_the_loop_is_closed_raises_nothing_in_lgpios_thread(
    lgpio: Lgpio, tmp_path: Path
) -> None:
    loop = asyncio.new_event_loop()
    pins = open_pins(PinFactory.LGPIO, loop, root=machine(tmp_path, {0: PI_4}))
    pins.input(CONTACT, normally=Normally.OPEN, on_change=ignore)
    loop.close()
    lgpio.edge(CONTACT, 0, time.monotonic())
    pins.close()


async def test_an_edge_whose_listener_was_taken_away_raises_nothing(pins: Any, lgpio: Lgpio) -> None:
    pins.input(CONTACT, normally=Normally.OPEN, on_change=ignore)
    (callback,) = lgpio.callbacks
    pins.factory.pin(CONTACT).when_changed = None
    callback.func(CHIP, CONTACT, 0, 1)


async def test_a_machine_without_lgpio_gets_no_other_factory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lgpio", None)
    with pytest.raises(PinError, match="lgpio can't be used") as caught:
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))
    assert "python3-lgpio" in caught.value.hint


async def test_the_empty_lgpio_of_pypi_is_an_error_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lgpio", ModuleType("lgpio"))
    with pytest.raises(PinError, match="lgpio can't be used"):
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))


async def test_a_chip_that_can_not_be_opened_is_an_error(lgpio: Lgpio, tmp_path: Path) -> None:
    lgpio.open = False
    with pytest.raises(PinError, match=r"/dev/gpiochip0 can't be opened") as caught:
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))
    assert "group gpio" in caught.value.hint


async def test_a_machine_without_a_header_never_imports_lgpio(lgpio: Lgpio, tmp_path: Path) -> None:
    with pytest.raises(PinError, match="no GPIO chip"):
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=tmp_path)
    assert "gated.pins.quiet" not in sys.modules


@pytest.fixture
def cwd_at_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """Where we were, and $LG_WD, when lgpio was looked for. It is then not found, which ends the import."""
    seen: list[tuple[str, str | None]] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "lgpio":
                seen.append((os.getcwd(), os.environ.get("LG_WD")))

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.chdir(tmp_path)
    return seen


async def test_lgpios_fifo_goes_where_lg_wd_says(
    cwd_at_import: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    place.mkdir()
    monkeypatch.setenv("LG_WD", str(place))
    with pytest.raises(PinError):
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))
    assert cwd_at_import == [(str(place), str(place))]
    assert Path.cwd() == tmp_path
    assert os.environ["LG_WD"] == str(place)


async def test_lgpios_fifo_goes_to_a_place_of_its_own_where_none_was_given(
    cwd_at_import: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LG_WD", raising=False)
    with pytest.raises(PinError):
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))
    ((cwd, place),) = cwd_at_import
    assert cwd == place != str(tmp_path)
    assert not Path(cwd).exists()
    assert Path.cwd() == tmp_path
    assert "LG_WD" not in os.environ


async def test_an_lg_wd_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, lgpio: Lgpio, tmp_path: Path
) -> None:
    monkeypatch.setenv("LG_WD", str(tmp_path / "nowhere"))
    with pytest.raises(PinError, match="nowhere"):
        open_pins(PinFactory.LGPIO, asyncio.get_running_loop(), root=machine(tmp_path, {0: PI_4}))
