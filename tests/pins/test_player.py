import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gated.core.signals import SIGNALS, STEADY, Lamp, Outcome, Pattern, Signal
from gated.errors import PinError
from gated.pins import PinFactory, open_pins
from gated.pins.fake import FakePins
from gated.pins.player import Player

GREEN, RED, BUZZER = 5, 6, 13


class Turn:
    """A timer of the fake loop."""

    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at, self.call, self.canceled = at, call, False

    def cancel(self) -> None:
        self.canceled = True


class Clockwork:
    """A loop whose time is turned by hand, starting far from zero as a monotonic clock does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.turns: list[Turn] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Turn:
        self.turns.append(Turn(when, lambda: callback(*args)))
        return self.turns[-1]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [turn for turn in self.waiting() if turn.at <= end]:
            turn = min(due, key=lambda turn: turn.at)
            self.turns.remove(turn)
            self.now = max(self.now, turn.at)
            turn.call()
        self.now = end

    def stall(self, seconds: float) -> None:
        """The loop is busy: time goes by and no timer fires."""
        self.now += seconds

    def waiting(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.canceled]


class Bench:
    """A lane's green and red lamps and its buzzer."""

    def __init__(self) -> None:
        self.clock = Clockwork()
        self.pins = FakePins(self.clock.time)
        self.faults: list[str] = []
        lamps = {
            Lamp.GREEN: self.pins.output(GREEN, active_high=True),
            Lamp.RED: self.pins.output(RED, active_high=True),
        }
        buzzer = self.pins.output(BUZZER, active_high=True)
        self.player = Player(lamps, buzzer, self.clock, lambda what, error: self.faults.append(what))

    def on(self) -> set[int]:
        return {pin for pin, output in self.pins.outputs.items() if output.active}

    def heard(self, pin: int) -> list[tuple[float, bool]]:
        return [(round(at - 1000, 6), active) for at, active in self.pins.times(pin)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def pattern(on_ms: int, off_ms: int, times: int | None = None) -> Pattern:
    return Pattern(timedelta(milliseconds=on_ms), timedelta(milliseconds=off_ms), times)


def green(shown: Pattern, buzzer: Pattern | None = None) -> Signal:
    return Signal(((Lamp.GREEN, shown),), buzzer, "green")


def test_a_steady_lamp_needs_no_timer(bench: Bench) -> None:
    bench.player.show(green(STEADY))
    assert bench.heard(GREEN) == [(0, True)]
    assert bench.clock.waiting() == []


def test_a_pattern_is_played_in_time_and_does_not_drift(bench: Bench) -> None:
    bench.player.show(green(pattern(100, 233)))
    bench.clock.run(100 * 0.333)
    changes = bench.heard(GREEN)
    assert changes[:4] == [(0, True), (0.1, False), (0.333, True), (0.433, False)]
    assert changes[-2:] == [(33.067, False), (33.3, True)]


def test_a_counted_pattern_ends_by_itself(bench: Bench) -> None:
    bench.player.show(green(STEADY, buzzer=pattern(100, 150, times=2)))
    bench.clock.run(10)
    assert bench.heard(BUZZER) == [(0, True), (0.1, False), (0.25, True), (0.35, False)]
    assert bench.clock.waiting() == []
    assert bench.on() == {GREEN}


def test_a_signal_replaces_the_one_before(bench: Bench) -> None:
    bench.player.show(SIGNALS[Outcome.DENY])
    bench.clock.run(0.3)
    bench.player.show(SIGNALS[Outcome.ADMIT])
    assert bench.on() == {GREEN, BUZZER}
    bench.clock.run(5)
    assert bench.heard(RED) == [(0, True), (0.2, False)]
    assert bench.heard(GREEN) == [(0.3, True)]
    assert bench.on() == {GREEN}


def test_the_same_signal_again_is_heard_again_without_a_blink(bench: Bench) -> None:
    for _ in range(2):
        bench.player.show(SIGNALS[Outcome.ADMIT])
        bench.clock.run(1)
    assert bench.heard(GREEN) == [(0, True)]
    assert bench.heard(BUZZER) == [(0, True), (0.1, False), (1, True), (1.1, False)]


def test_a_lamp_that_is_not_there_is_played_on_the_one_that_stands_in(bench: Bench) -> None:
    bench.player.show(Signal(((Lamp.AMBER, STEADY),), None, "amber"))
    assert bench.on() == {RED}


def test_stopping_darkens_everything_and_leaves_no_timer(bench: Bench) -> None:
    bench.player.show(SIGNALS[Outcome.EMERGENCY])
    bench.player.stop()
    assert bench.on() == set()
    bench.clock.run(5)
    assert bench.on() == set()
    assert bench.clock.waiting() == []


def test_a_busy_loop_skips_what_was_missed_and_falls_back_into_step(bench: Bench) -> None:
    bench.player.show(green(pattern(100, 100)))
    bench.clock.stall(5.05)
    bench.clock.run(0.2)
    assert bench.heard(GREEN) == [(0, True), (5.1, False), (5.2, True)]


def test_a_timer_that_fires_early_is_taken_at_its_word(bench: Bench) -> None:
    bench.player.show(green(pattern(100, 100)))
    (timer,) = bench.clock.waiting()
    bench.clock.turns.clear()
    bench.clock.now += 0.0999
    timer.call()
    assert bench.on() == set()
    (following,) = bench.clock.waiting()
    assert following.at == pytest.approx(1000.2)


def test_a_broken_lamp_is_reported_once_and_the_others_go_on(bench: Bench) -> None:
    bench.pins.broken.add(GREEN)
    bench.player.show(Signal(((Lamp.GREEN, pattern(100, 100)), (Lamp.RED, STEADY)), STEADY, "all"))
    bench.clock.run(5)
    assert bench.on() == {RED, BUZZER}
    assert bench.faults == ["green"]


def test_a_broken_buzzer_is_reported_by_name(bench: Bench) -> None:
    bench.pins.broken.add(BUZZER)
    bench.player.show(green(STEADY, buzzer=STEADY))
    assert bench.on() == {GREEN}
    assert bench.faults == ["buzzer"]


def test_a_lamp_that_works_again_is_used_again_and_may_be_reported_again(bench: Bench) -> None:
    bench.pins.broken.add(GREEN)
    bench.player.show(green(pattern(100, 100)))
    bench.pins.broken.clear()
    bench.clock.run(0.25)
    assert GREEN in bench.on()
    bench.pins.broken.add(GREEN)
    bench.clock.run(0.25)
    assert bench.faults == ["green", "green"]


def test_a_lane_without_lamps_or_buzzer_shows_nothing() -> None:
    clock = Clockwork()
    player = Player({}, None, clock, lambda what, error: pytest.fail(what))
    for signal in SIGNALS.values():
        player.show(signal)
    player.stop()
    assert clock.waiting() == []


async def test_real_devices_are_played_on_a_real_loop() -> None:
    def fail(what: str, error: PinError) -> None:
        raise AssertionError(what)

    loop = asyncio.get_running_loop()
    pins: Any = open_pins(PinFactory.MOCK, loop)
    lamp = pins.output(GREEN, active_high=False)
    player = Player({Lamp.GREEN: lamp}, None, loop, fail)
    pin = pins.factory.pin(GREEN)
    pin.clear_states()
    player.show(green(pattern(2, 2, times=1)))
    async with asyncio.timeout(1):
        while lamp.active:
            await asyncio.sleep(0.001)
    assert [state.state for state in pin.states] == [True, False, True]
    pins.close()
