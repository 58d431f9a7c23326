"""One RGB lamp on three outputs, played as if it were the four lamps of a lane.

It shows one colour at a time: which, where several are lit, is said in :mod:`gated.core.signals`.
"""

from collections.abc import Mapping

from gated.core.signals import Lamp, mixed
from gated.pins import Output
from gated.pins.player import Light


class RgbLamp:
    """The lamp; ``colours`` are what a :class:`~gated.pins.player.Player` plays on."""

    def __init__(self, red: Output, green: Output, blue: Output) -> None:
        self._outputs = (red, green, blue)
        self._colours = {lamp: _Colour(lamp, self) for lamp in Lamp}

    @property
    def colours(self) -> Mapping[Lamp, Light]:
        """Each lamp that it stands for."""
        return self._colours

    def write(self, changed: Lamp, active: bool) -> None:
        """Lights a colour, or no longer. Raises PinError."""
        lit = {lamp for lamp, colour in self._colours.items() if colour.active and lamp is not changed}
        wanted = mixed(lit | {changed} if active else lit)
        # Off before on, so that no third colour flashes up in between.
        for output, on in sorted(zip(self._outputs, wanted, strict=True), key=lambda pair: pair[1]):
            if output.active is not on:
                output.write(on)


class _Colour:
    """One colour, lit or not, whether or not another outshines it."""

    def __init__(self, lamp: Lamp, rgb: RgbLamp) -> None:
        self._lamp = lamp
        self._rgb = rgb
        self.active = False

    def write(self, active: bool) -> None:
        self._rgb.write(self._lamp, active)
        self.active = active
