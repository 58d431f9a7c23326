"""Plays signals: patterns on lamps and a buzzer, timed by the loop.

No threads and no drift: each change is timed from the start of its signal. Every lamp and the buzzer play
on their own, so one that fails darkens nothing else; it goes on being tried, and is reported once until it
works again.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from gated.core.signals import OFF, Lamp, Pattern, Signal, for_lamps, level
from gated.errors import PinError

OnFault = Callable[[str, PinError], None]
"""Told which lamp (by its colour) or ``buzzer`` could not be driven, and why."""


class Light(Protocol):
    """What is used of an output."""

    @property
    def active(self) -> bool: ...

    def write(self, active: bool) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Timeline(Protocol):
    """What is used of an asyncio loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...


class Player:
    """Shows one signal at a time on the lamps and the buzzer that a lane has."""

    def __init__(
        self, lamps: Mapping[Lamp, Light], buzzer: Light | None, timeline: Timeline, on_fault: OnFault
    ) -> None:
        self._lamps = {lamp: _Channel(lamp, output, timeline, on_fault) for lamp, output in lamps.items()}
        self._buzzer = None if buzzer is None else _Channel("buzzer", buzzer, timeline, on_fault)

    def show(self, signal: Signal) -> None:
        """Replace what was shown. The same signal again starts again, so that it can be heard again."""
        shown = for_lamps(signal, self._lamps.keys())
        for lamp, channel in self._lamps.items():
            channel.play(shown.lamp(lamp))
        if self._buzzer is not None:
            self._buzzer.play(shown.buzzer or OFF)

    def stop(self) -> None:
        """All dark and silent, and no timer left."""
        self.show(Signal((), None, ""))


class _Channel:
    """One output playing one pattern."""

    def __init__(self, name: str, output: Light, timeline: Timeline, on_fault: OnFault) -> None:
        self._name = name
        self._output = output
        self._timeline = timeline
        self._on_fault = on_fault
        self._faulty = False
        self._pattern = OFF
        self._started = 0.0
        self._timer: Timer | None = None

    def play(self, pattern: Pattern) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pattern = pattern
        self._started = self._timeline.time()
        self._step(timedelta())

    def _step(self, due: timedelta) -> None:
        # A timer may fire a hair early, and late when the loop was busy: never go back, skip what was missed.
        elapsed = max(due, timedelta(seconds=self._timeline.time() - self._started))
        on, change = level(self._pattern, elapsed)
        self._write(on)
        if change is None:
            self._timer = None
        else:
            at = self._started + change.total_seconds()
            self._timer = self._timeline.call_at(at, self._step, change)

    def _write(self, on: bool) -> None:
        if on == self._output.active:
            return
        try:
            self._output.write(on)
        except PinError as error:
            if not self._faulty:
                self._on_fault(self._name, error)
            self._faulty = True
        else:
            self._faulty = False
