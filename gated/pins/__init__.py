"""Pins: outputs that release, light and sound, and inputs that are contacts to ground.

Three rules hold in this package:

- The factory is the one that was named. If it can't be opened that is a :class:`~gated.errors.PinError`,
  never another factory.
- An output is claimed at its inactive level in one step, and is made inactive before it is let go.
- Only this package imports gpiozero and lgpio, and neither before pins are opened: importing lgpio makes a
  FIFO, starts a thread and changes the working directory.

Pins are named by their BCM numbers, as Raspberry Pi's documentation and gpiozero do.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop  # gated.failsafe comes by here, and has no time for asyncio


class PinFactory(StrEnum):
    """What drives the pins."""

    LGPIO = "lgpio"  # a Raspberry Pi's real pins
    MOCK = "mock"  # pins that exist in memory only


class Normally(StrEnum):
    """How a contact to ground rests. A broken wire looks like an open contact."""

    OPEN = "open"
    CLOSED = "closed"


OnChange = Callable[[bool, float], None]
"""Told whether the contact is active now, and when that changed in seconds of ``time.monotonic``."""


class Output(Protocol):
    """One claimed output. "Active" is meant, not high: how the pin is wired was said when it was claimed."""

    @property
    def pin(self) -> int:
        """The BCM number."""

    @property
    def active(self) -> bool:
        """What was last written, ``False`` before."""

    def write(self, active: bool) -> None:
        """Drive the pin. Raises :class:`~gated.errors.PinError`; then its level is unknown."""

    def confirm(self) -> None:
        """Read the pin itself. Raises :class:`~gated.errors.PinError` if it is not as it was last written."""


class Input(Protocol):
    """One claimed input: a contact to ground, held high by the Pi's own pull-up while it is open."""

    @property
    def pin(self) -> int:
        """The BCM number."""

    @property
    def active(self) -> bool:
        """Whether the contact differs from its normal state, read from the pin now.

        Raises :class:`~gated.errors.PinError`.
        """


class Pins(Protocol):
    """The pins of one gate, each claimed once."""

    def output(self, pin: int, *, active_high: bool) -> Output:
        """Claim a pin as an output that is inactive from its first instant.

        Raises :class:`~gated.errors.PinError` if there is no such pin or it is claimed already.
        """

    def input(self, pin: int, *, normally: Normally, on_change: OnChange) -> Input:
        """Claim a pin as an input.

        ``on_change`` is called on the loop for every edge that the kernel saw, not debounced; where edges
        came faster than they were read it may be told the same state twice. The state at the start is not
        told: read ``active`` once. Raises :class:`~gated.errors.PinError` like ``output``.
        """

    @property
    def alive(self) -> bool:
        """Whether changes of inputs can still be told."""

    def close(self) -> None:
        """Make every output inactive, then let all pins go. Never raises; what fails is logged."""


def open_pins(factory: PinFactory, loop: "AbstractEventLoop", *, root: Path = Path("/")) -> Pins:
    """Open the factory that was named, and no other.

    ``root`` is where the machine's ``sys`` is looked for. Raises :class:`~gated.errors.PinError` if lgpio is
    missing, no chip of a Pi can be found, or the chip can't be opened.
    """
    from gated.pins import devices

    if factory is PinFactory.MOCK:
        return devices.open_mock(loop)
    return devices.open_lgpio(loop, root)
