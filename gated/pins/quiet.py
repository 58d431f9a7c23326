"""gpiozero's lgpio factory, made quiet: a pin is claimed once, as what it is to be, at its safe level.

Importing this module imports lgpio, with the side effects that :mod:`gated.pins` names.

What gpiozero 2.0.1.post3 does, read in its ``pins/lgpio.py``, and what is done here instead:

- It claims every new pin as an input without a pull, then an output low, then writes the wanted level. An
  active-low relay clicks at every start. Here the one claim carries the level.
- It closes a pin by making it an input without a pull, which floats. Here the pin is let go as it is, its
  pull untouched. A Raspberry Pi's kernel then keeps the last driven level, and gated has just made that the
  inactive one; with ``strict_gpiod`` the kernel makes it an input, and the resistors hold it.
- It guesses the chip's number, and in 2.0 and 2.0.1 even when told. Here it is given.
- It wants to know the board. Where no revision can be read, as in a virtual machine or a sandbox without
  /proc, the 40-pin header stands in: it serves only to name the pins, and BCM numbers mean the same there.

lgpio 0.2.2 calls back in its one notification thread and has no net under it: a callback that raises ends the
thread, and with it every input. So nothing here that runs in it can raise. Its times are nanoseconds of the
kernel's monotonic clock, the same as ``time.monotonic``.
"""

from collections import defaultdict
from threading import Lock
from typing import Any

import lgpio
from gpiozero.exc import PinInvalidFunction, PinUnknownPi
from gpiozero.pins.lgpio import LGPIOFactory, LGPIOPin
from gpiozero.pins.pi import PiBoardInfo

# A Pi 3B: any board whose header has 40 pins would do.
FORTY_PINS = 0xA02082


class QuietPin(LGPIOPin):  # type: ignore[misc] # gpiozero has no types
    """A pin that is claimed when its function is known, and not before."""

    def __init__(self, factory: "QuietFactory", info: Any) -> None:
        super(LGPIOPin, self).__init__(factory, info)  # LGPIOPin's own would claim the pin as an input
        self._pwm = self._bounce = self._callback = None
        self._edges = lgpio.BOTH_EDGES
        self._claimed = False

    def output_with_state(self, state: bool) -> None:
        lgpio.gpio_claim_output(self._handle, self._number, int(state))
        self._claimed = True

    def close(self) -> None:
        self._disable_event_detect()
        if self._claimed:
            self._claimed = False
            lgpio.gpio_free(self._handle, self._number)

    @property
    def _handle(self) -> int:
        handle: int = self.factory._handle
        return handle

    def _set_function(self, value: str) -> None:
        """Claim as an input with pull-up that reports edges: gated's inputs all are contacts to ground."""
        if value != "input":
            raise PinInvalidFunction(f"{self!r} is claimed as an output with its level, or not at all")
        lgpio.gpio_claim_alert(self._handle, self._number, lgpio.BOTH_EDGES, lgpio.SET_PULL_UP)
        self._claimed = True

    def _get_pull(self) -> str:
        return "up"  # as claimed; gpiozero would ask the kernel, and if in doubt claim again without edges

    def _enable_event_detect(self) -> None:
        self._callback = lgpio.callback(self._handle, self._number, lgpio.BOTH_EDGES, self._edge)

    def _disable_event_detect(self) -> None:
        if self._callback is not None:
            self._callback.cancel()
            self._callback = None

    def _edge(self, _chip: int, _pin: int, level: int, nanoseconds: int) -> None:
        reference = self._when_changed  # read once: the loop's thread may take it away
        listener = None if reference is None else reference()
        if listener is not None:
            listener(nanoseconds / 1e9, level)


class QuietFactory(LGPIOFactory):  # type: ignore[misc] # gpiozero has no types
    """Makes quiet pins on ``/dev/gpiochip<chip>``. Raises ``lgpio.error`` if that can't be opened."""

    def __init__(self, chip: int) -> None:
        super(LGPIOFactory, self).__init__()  # LGPIOFactory's own may choose another chip
        # gpiozero shares these between all local factories of a process. Here they end with this one; and a
        # forgotten device of another one, collected in the middle of a claim, can't wait for this one's lock.
        self.pins: dict[Any, QuietPin] = {}
        self._reservations: dict[Any, list[Any]] = defaultdict(list)
        self._res_lock = Lock()
        self.pin_class = QuietPin
        self._chip = chip
        self._handle = lgpio.gpiochip_open(chip)

    def _get_board_info(self) -> Any:
        try:
            return super()._get_board_info()
        except (PinUnknownPi, OSError):
            self._info = PiBoardInfo.from_revision(FORTY_PINS)
            return self._info
