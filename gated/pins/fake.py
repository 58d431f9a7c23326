"""Pins for tests: they remember what was written and when, are driven by hand, and can be broken.

The contract tests run against these and the real ones alike. Two things are simpler: ``on_change`` is called
at once, by whoever drives the pin, and a pin may be driven before it is claimed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gated.errors import PinError
from gated.pins import Input, Normally, OnChange, Output


@dataclass(frozen=True, slots=True)
class Written:
    """One write that changed an output: when in seconds of the fake's clock, which pin, to what."""

    at: float
    pin: int
    active: bool


class FakeOutput:
    def __init__(self, pin: int, active_high: bool, pins: "FakePins") -> None:
        self.pin = pin
        self.active = False
        self.active_high = active_high
        self._pins = pins

    def write(self, active: bool) -> None:
        if self._pins.closed or self.pin in self._pins.broken:
            raise PinError(f"writing GPIO{self.pin}: broken or closed")
        if active is not self.active:
            self.active = active
            self._pins.history.append(Written(self._pins.clock(), self.pin, active))

    def confirm(self) -> None:
        if self._pins.closed or self._pins.stuck.get(self.pin, self.active) is not self.active:
            raise PinError(f"GPIO{self.pin} does not read as it was written, or is closed")


class FakeInput:
    def __init__(self, pin: int, on_change: OnChange, pins: "FakePins") -> None:
        self.pin = pin
        self.on_change = on_change
        self._pins = pins

    @property
    def active(self) -> bool:
        if self._pins.closed:
            raise PinError(f"reading GPIO{self.pin}: closed")
        return self._pins.driven[self.pin]


class FakePins:
    """Pins in memory, on a clock of the test's in monotonic seconds.

    ``history`` lists every change of every output. A pin in ``broken`` can't be claimed or written; one in
    ``stuck`` reads as it says there, whatever is written.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.closed = False
        self.alive = True
        self.broken: set[int] = set()
        self.stuck: dict[int, bool] = {}
        self.driven: dict[int, bool] = {}
        self.history: list[Written] = []
        self.outputs: dict[int, FakeOutput] = {}
        self.inputs: dict[int, FakeInput] = {}

    def output(self, pin: int, *, active_high: bool) -> Output:
        self._check_free(pin)
        self.outputs[pin] = FakeOutput(pin, active_high, self)
        return self.outputs[pin]

    def input(self, pin: int, *, normally: Normally, on_change: OnChange) -> Input:
        self._check_free(pin)
        self.driven.setdefault(pin, normally is Normally.CLOSED)  # nothing wired: an open contact
        self.inputs[pin] = FakeInput(pin, on_change, self)
        return self.inputs[pin]

    def close(self) -> None:
        for output in self.outputs.values():
            if output.active and output.pin not in self.broken:
                output.write(False)
        self.closed = True

    def drive(self, pin: int, active: bool) -> None:
        """Put a contact into (or out of) its normal state."""
        changed = self.driven.get(pin) is not active
        self.driven[pin] = active
        if changed and pin in self.inputs and not self.closed:
            self.inputs[pin].on_change(active, self.clock())

    def times(self, pin: int) -> list[tuple[float, bool]]:
        """The history of one pin: when in seconds of the clock, and to what."""
        return [(written.at, written.active) for written in self.history if written.pin == pin]

    def _check_free(self, pin: int) -> None:
        if self.closed or pin in self.broken or pin in self.outputs or pin in self.inputs:
            raise PinError(f"claiming GPIO{pin}: broken, closed or claimed already")
