"""Contacts: inputs that bounce, and the emergency's, which must not wait for that.

Debouncing is ours: gpiozero's ``bounce_time`` loses edges with lgpio (gpiozero #1039, #1090).
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from gated.core import emergency
from gated.core.emergency import Came, Emergency
from gated.pins import Input, Normally, Pins

# Contacts of turnstiles and buttons bounce for a few milliseconds; TISO's feedback lasts 300 ms.
SETTLE = timedelta(milliseconds=20)


class Contact:
    """One debounced contact; ``on_active`` is told the monotonic time at which it became active."""

    def __init__(self, pins: Pins, pin: int, normally: Normally, on_active: Callable[[float], None]) -> None:
        """Raises PinError."""
        self._on_active = on_active
        self._timer: asyncio.TimerHandle | None = None
        self._settled = pins.input(pin, normally=normally, on_change=self._changed).active

    def close(self) -> None:
        """Tells nothing any more; the pin itself may still change."""
        self._on_active = _nobody
        if self._timer is not None:
            self._timer.cancel()

    def _changed(self, active: bool, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SETTLE.total_seconds(), self._settle, active, at)

    def _settle(self, active: bool, at: float) -> None:
        self._timer = None
        if active and not self._settled:
            self._on_active(at)
        self._settled = active


class EmergencyInput:
    """The emergency's input and latch. What comes of each change is told at once, and never lost."""

    def __init__(self, *, latched: bool, automatic: bool, monotonic: Callable[[], float]) -> None:
        """``latched`` is what the disk says, ``automatic`` whether it ends by itself."""
        self.state = Emergency(latched=latched)
        self._automatic = automatic
        self._monotonic = monotonic
        self._timer: asyncio.TimerHandle | None = None
        self._input: Input | None = None
        self._untold: list[Came] = []
        self._tell: Callable[[Came], None] = self._untold.append

    def claim(self, pins: Pins, pin: int, normally: Normally) -> None:
        """Reads the loop, before any output is claimed. Raises PinError."""
        self._input = found = pins.input(pin, normally=normally, on_change=self._changed)
        at = self._monotonic()
        self.state = replace(self.state, since=at)  # for how long it has been normal is not known
        self._look_again(emergency.NORMAL)
        self._changed(found.active, at)

    def watch(self, tell: Callable[[Came], None]) -> None:
        """Tells of changes from now on, and first of those since the claim."""
        self._tell = tell
        for came in self._untold:
            tell(came)

    def look(self) -> None:
        """Reads the loop itself: that no edge was told proves nothing about a wire. Raises PinError."""
        if self._input is not None:
            self._changed(self._input.active, self._monotonic())

    def reset(self) -> str:
        """Somebody says that it is over; returns why that can't be, or a blank text."""
        self.state, why_not = emergency.reset(self.state, at=self._monotonic())
        if not why_not:
            self._tell(Came.ENDED)
        return why_not

    def close(self) -> None:
        """Tells nothing any more."""
        self._tell = _nobody
        self._stop_timer()

    def _changed(self, active: bool, at: float) -> None:
        changed, came = emergency.input_changed(self.state, active=active, at=at)
        if changed is self.state:
            return  # told twice: that must not put off the latch
        self.state = changed
        self._look_again(emergency.LATCHES if active else emergency.NORMAL)
        self._came(came)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self, after: float) -> None:
        self._stop_timer()
        # a little later than needed: timers may fire a hair early
        self._timer = asyncio.get_running_loop().call_later(after + 0.01, self._time_passed)

    def _time_passed(self) -> None:
        self.state, came = emergency.time_passed(self.state, at=self._monotonic(), automatic=self._automatic)
        self._came(came)

    def _came(self, came: Came) -> None:
        if came is not Came.NOTHING:
            self._tell(came)


def _nobody(_: object) -> None:
    """Who is told once a contact is closed."""
