"""The real pins: gpiozero's devices on a factory that was chosen by name.

Edges come in a thread of lgpio's and cross to the loop in one place, :meth:`GpioInput._edge`. gpiozero keeps
only weak references to listeners and closes a device that nobody holds, so everything claimed is held here.
gpiozero's blinking threads are not used, nor is its debouncing, which drops edges and invents some.
"""

import contextlib
import logging
import os
import time
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from gpiozero import GPIOZeroError, InputDevice, OutputDevice
from gpiozero.pins.mock import MockFactory, MockPin

from gated.errors import PinError
from gated.pins import Input, Normally, OnChange, Output
from gated.pins.chip import find_chip

log = logging.getLogger(__name__)

_SETTLE_S = 0.001  # for a line that a long wire or a filter makes slow; the loop waits only if it reads wrong


class _ClaimedOutput(OutputDevice):  # type: ignore[misc] # gpiozero has no types
    """An output that is inactive from its first instant, or not reserved either.

    gpiozero's own keeps its pin reserved when the claim fails, and any later claim would then read that pin
    for its message, for which lgpio claims it as an input.
    """

    def __init__(self, pin: int, active_high: bool, factory: Any) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            super().__init__(pin, active_high=active_high, initial_value=False, pin_factory=factory)
            undo.pop_all()


class GpioOutput:
    """An output on a gpiozero device."""

    def __init__(self, pin: int, device: Any, pins: "GpioPins") -> None:
        self.pin = pin
        self.active = False
        self.device = device
        self._pins = pins
        self._writing = pins.translated(f"writing GPIO{pin}")

    def write(self, active: bool) -> None:
        with self._writing:
            self.device.value = active
        self.active = active

    def confirm(self) -> None:
        if self._read() is self.active:
            return
        time.sleep(_SETTLE_S)
        if self._read() is not self.active:
            wanted, found = ("active", "inactive") if self.active else ("inactive", "active")
            raise PinError(
                f"GPIO{self.pin} was made {wanted} and reads {found}",
                hint="Look for a short or a wrong wire at this pin, then for a broken relay board.",
            )

    def _read(self) -> bool:
        with self._pins.translated(f"reading GPIO{self.pin}"):
            active: bool = self.device.is_active
        return active


class GpioInput:
    """A contact to ground on a gpiozero device, whose own "active" is a closed contact."""

    def __init__(
        self, pin: int, device: Any, pins: "GpioPins", normally: Normally, on_change: OnChange
    ) -> None:
        self.pin = pin
        self.device = device
        self._pins = pins
        self._normally_closed = normally is Normally.CLOSED
        self._on_change = on_change
        device.pin.when_changed = self._edge

    @property
    def active(self) -> bool:
        with self._pins.translated(f"reading GPIO{self.pin}"):
            closed: bool = self.device.is_active
        return closed is not self._normally_closed

    def _edge(self, seconds: float, level: int) -> None:
        """Runs in lgpio's thread, so it must not raise. The level is low while the contact is closed."""
        active = (not level) is not self._normally_closed
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody left to tell
            self._pins.loop.call_soon_threadsafe(self._tell, active, seconds)

    def _tell(self, active: bool, seconds: float) -> None:
        if not self.device.closed:
            self._on_change(active, seconds)


class GpioPins:
    """The pins of one gate on one gpiozero factory, which is open to tests as ``factory``.

    ``errors`` are the exceptions besides gpiozero's own with which that factory says that a pin failed;
    ``edges`` is the thread in which it tells of edges, if it has one.
    """

    def __init__(
        self,
        factory: Any,
        loop: AbstractEventLoop,
        errors: tuple[type[Exception], ...] = (),
        edges: Thread | None = None,
    ) -> None:
        self.factory = factory
        self.loop = loop
        self._edges = edges
        self._errors = (GPIOZeroError, *errors)
        self._outputs: list[GpioOutput] = []
        self._inputs: list[GpioInput] = []

    def output(self, pin: int, *, active_high: bool) -> Output:
        with self.translated(f"claiming GPIO{pin} as an output"):
            device = _ClaimedOutput(pin, active_high, self.factory)
        output = GpioOutput(pin, device, self)
        self._outputs.append(output)
        return output

    def input(self, pin: int, *, normally: Normally, on_change: OnChange) -> Input:
        with self.translated(f"claiming GPIO{pin} as an input"):
            device = InputDevice(pin, pull_up=True, pin_factory=self.factory)
            contact = GpioInput(pin, device, self, normally, on_change)
        self._inputs.append(contact)
        return contact

    @property
    def alive(self) -> bool:
        return self._edges is None or self._edges.is_alive()

    def close(self) -> None:
        # All outputs first: nothing that fails while pins are let go may leave a barrier released.
        for output in self._outputs:
            with self._logged():
                output.write(False)
        claimed: list[GpioOutput | GpioInput] = [*self._outputs, *self._inputs]
        for one in claimed:
            with self._logged(), self.translated(f"letting GPIO{one.pin} go"):
                one.device.close()
        self._outputs, self._inputs = [], []
        with self._logged(), self.translated("closing the GPIO chip"):
            self.factory.close()

    def translated(self, doing: str) -> "_Translated":
        """Raise what the libraries raise as a PinError that says what was being done."""
        return _Translated(doing, self._errors)

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            yield
        except PinError as error:
            log.error("%s", error)


class _Translated:
    """A context manager made by hand: a scan's relay waits for it, and contextlib's take longer."""

    def __init__(self, doing: str, errors: tuple[type[Exception], ...]) -> None:
        self._doing = doing
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, self._errors):
            raise PinError(f"{self._doing}: {error}") from error


def open_mock(loop: AbstractEventLoop) -> GpioPins:
    """Pins in memory, on a factory of their own that no environment variable changes."""
    return GpioPins(MockFactory(revision="a02082", pin_class=MockPin), loop)


def open_lgpio(loop: AbstractEventLoop, root: Path) -> GpioPins:
    """A Raspberry Pi's pins. Raises :class:`~gated.errors.PinError`."""
    chip = find_chip(root).number
    try:
        with _place_for_fifo():
            import lgpio

            from gated.pins.quiet import QuietFactory
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: PyPI has an empty lgpio 0.0.0.2
        raise PinError(
            f"lgpio can't be used: {error}",
            hint="sudo apt install python3-lgpio; $LG_WD must name a directory that gated may write to.",
        ) from error
    try:
        factory = QuietFactory(chip)
    except lgpio.error as error:
        raise PinError(
            f"/dev/gpiochip{chip} can't be opened: {error}",
            hint="The user that gated runs as must be in the group gpio.",
        ) from error
    edges = getattr(lgpio, "_notify_thread", None)  # so called in lgpio.py of 0.2.2, which has no public name
    return GpioPins(factory, loop, (lgpio.error, OSError), edges)


@contextlib.contextmanager
def _place_for_fifo() -> Iterator[None]:
    """Give lgpio a place for the FIFO that it makes when imported, and come back to where we were.

    lgpio makes it in $LG_WD, or else in the working directory, changes to that directory for good, and opens
    the FIFO by its bare name (lgUtil.c, lgNotify.c, lgpio.py of 0.2.2). Both of its ends are open after the
    import, so where no place was given a directory that is gone afterwards will do.
    """
    if given := os.environ.get("LG_WD"):
        with contextlib.chdir(given):
            yield
        return
    with TemporaryDirectory(prefix="gated-lgpio-") as place, contextlib.chdir(place):
        os.environ["LG_WD"] = place
        try:
            yield
        finally:
            del os.environ["LG_WD"]
