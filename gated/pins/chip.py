"""Which ``/dev/gpiochipN`` is the one behind the 40-pin header, and what becomes of an output that is let go.

The number is no guide: on a Pi 5 it has been 4, then 0, and with kernels of 2026 one of 11 to 15. The
device tree is. Each chip's ``of_node/compatible`` under ``/sys/bus/gpio/devices`` holds names separated by
NUL; those of the header's chips are from the Linux bindings ``pinctrl/raspberrypi,rp1-gpio.yaml`` and
``pinctrl/brcm,bcm2835-gpio.txt``. A Pi has other chips too, so the first is not good enough.

Only where no device tree describes gpiochip0 at all, which is never so on a Pi, is gpiochip0 taken: that is a
virtual machine with simulated pins, the kernel's gpio-sim.

Raspberry Pi's kernels leave an output as it was driven when its process is gone, unless told otherwise by
``dtparam=strict_gpiod``, which sets the parameter ``persist_gpio_outputs`` of the header's driver
(raspberrypi/linux #6117 and #6150, pinctrl-bcm2835.c and pinctrl-rp1.c). A kernel may have the drivers of all
Pis, so the chip says which counts.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gated.errors import PinError

# The header's chips, and the driver of each as /sys/module has it.
HEADER_CHIPS = {
    "raspberrypi,rp1-gpio": "pinctrl_rp1",  # Pi 5, 500, CM5
    "brcm,bcm2711-gpio": "pinctrl_bcm2835",  # Pi 4, 400, CM4
    "brcm,bcm2835-gpio": "pinctrl_bcm2835",  # all before, and the Zeros
}

STRICT_HINT = "Add dtparam=strict_gpiod to /boot/firmware/config.txt and reboot."


@dataclass(frozen=True, slots=True)
class Chip:
    """The header's chip: the N of its ``/dev/gpiochipN``, and its kernel driver, blank if it is simulated."""

    number: int
    driver: str


class LetGo(StrEnum):
    """What becomes of an output whose process is gone."""

    INPUT = "input"  # it ends at once, and the resistors hold the line
    STAYS = "stays"  # it is driven on, at the last level
    UNKNOWN = "unknown"  # this kernel does not say


def find_chip(root: Path) -> Chip:
    """The chip behind the header. ``root`` holds ``sys``: "/" but in tests.

    Raises :class:`~gated.errors.PinError`, which lists the chips that are there.
    """
    chips = {chip: _compatible(chip) for chip in sorted((root / "sys/bus/gpio/devices").glob("gpiochip*"))}
    for name, driver in HEADER_CHIPS.items():
        for chip, names in chips.items():
            if name in names:
                return Chip(_number(chip), driver)
    for chip, names in chips.items():
        if _number(chip) == 0 and not names:
            return Chip(0, "")
    seen = ", ".join(f"{chip.name} ({' '.join(names) or 'no device tree'})" for chip, names in chips.items())
    raise PinError(
        f"no GPIO chip of a Raspberry Pi: {seen or 'this machine has none'}",
        hint='Run gated on a Raspberry Pi, or set [pins] factory = "mock" to try it without pins.',
    )


def when_let_go(chip: Chip, root: Path) -> LetGo:
    """What the kernel does with an output when gated is killed; ``root`` as for :func:`find_chip`."""
    try:
        said = (root / "sys/module" / chip.driver / "parameters/persist_gpio_outputs").read_text().strip()
    except OSError:
        return LetGo.UNKNOWN
    return {"Y": LetGo.STAYS, "N": LetGo.INPUT}.get(said, LetGo.UNKNOWN)


def _compatible(chip: Path) -> tuple[str, ...]:
    try:
        text = (chip / "of_node/compatible").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()
    return tuple(name for name in text.split("\0") if name)


def _number(chip: Path) -> int:
    return int(chip.name.removeprefix("gpiochip"))
