"""One RGB lamp that stands for a lane's four."""

import pytest

from gated.core.signals import SIGNALS, Lamp, Outcome
from gated.errors import PinError
from gated.pins.fake import FakePins
from gated.pins.player import Player
from gated.pins.rgb import RgbLamp
from tests.pins.test_player import Clockwork

RED, GREEN, BLUE = 9, 10, 11


class Bench:
    def __init__(self) -> None:
        self.clock = Clockwork()
        self.pins = FakePins(self.clock.time)
        outputs = [self.pins.output(pin, active_high=True) for pin in (RED, GREEN, BLUE)]
        self.rgb = RgbLamp(*outputs)
        self.faults: list[str] = []
        self.player = Player(self.rgb.colours, None, self.clock, lambda what, _: self.faults.append(what))

    def lit(self) -> set[int]:
        return {pin for pin, output in self.pins.outputs.items() if output.active}


@pytest.mark.parametrize(
    ("lamp", "lit"),
    [
        (Lamp.RED, {RED}),
        (Lamp.GREEN, {GREEN}),
        (Lamp.AMBER, {RED, GREEN}),
        (Lamp.WHITE, {RED, GREEN, BLUE}),
    ],
)
def test_each_lamp_is_a_mixture(lamp: Lamp, lit: set[int]) -> None:
    bench = Bench()
    bench.rgb.colours[lamp].write(True)
    assert bench.lit() == lit
    bench.rgb.colours[lamp].write(False)
    assert bench.lit() == set()


def test_stop_outshines_go_for_as_long_as_it_is_lit() -> None:
    bench = Bench()
    for lamp in (Lamp.WHITE, Lamp.RED):
        bench.rgb.colours[lamp].write(True)
    assert bench.lit() == {RED}
    bench.rgb.colours[Lamp.RED].write(False)
    assert bench.lit() == {RED, GREEN, BLUE}


def test_an_admission_is_green_and_the_denial_after_it_red() -> None:
    bench = Bench()
    bench.player.show(SIGNALS[Outcome.ADMIT])
    assert bench.lit() == {GREEN}
    bench.player.show(SIGNALS[Outcome.DENY])
    assert bench.lit() == {RED}
    bench.clock.run(0.3)
    assert bench.lit() == set()
    bench.player.show(SIGNALS[Outcome.ADMIT])
    assert bench.lit() == {GREEN}
    bench.player.stop()
    assert bench.lit() == set()


def test_green_never_flashes_up_in_a_denial() -> None:
    bench = Bench()
    bench.player.show(SIGNALS[Outcome.READY])
    bench.player.show(SIGNALS[Outcome.DENY])
    seen = len(bench.pins.history)
    bench.clock.run(2)
    assert {written.pin for written in bench.pins.history[seen:]} == {RED}


def test_a_pin_that_fails_is_told_and_tried_again() -> None:
    bench = Bench()
    bench.pins.broken.add(GREEN)
    with pytest.raises(PinError):
        bench.rgb.colours[Lamp.GREEN].write(True)
    bench.player.show(SIGNALS[Outcome.ADMIT])
    assert bench.faults == ["green"]
    bench.pins.broken.clear()
    bench.player.show(SIGNALS[Outcome.ADMIT])
    assert bench.lit() == {GREEN}
