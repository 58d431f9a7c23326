"""Which ``/dev/gpiochipN`` is the one behind the 40-pin header.

The number is no guide: on a Pi 5 it has been 4, then 0, and with kernels of 2026 one of 11 to 15. The
device tree is. Each chip's ``of_node/compatible`` under ``/sys/bus/gpio/devices`` holds names separated by
NUL; those of the header's chips are from the Linux bindings ``pinctrl/raspberrypi,rp1-gpio.yaml`` and
``pinctrl/brcm,bcm2835-gpio.txt``. A Pi has other chips too, so the first is not good enough.

Only where no device tree describes gpiochip0 at all, which is never so on a Pi, is gpiochip0 taken: that is a
virtual machine with simulated pins, the kernel's gpio-sim.
"""

from pathlib import Path

from gated.errors import PinError

HEADER_CHIPS = (
    "raspberrypi,rp1-gpio",  # Pi 5, 500, CM5
    "brcm,bcm2711-gpio",  # Pi 4, 400, CM4
    "brcm,bcm2835-gpio",  # all before, and the Zeros
)


def find_chip(root: Path) -> int:
    """The N of the ``/dev/gpiochipN`` behind the header. ``root`` holds ``sys``: "/" but in tests.

    Raises :class:`~gated.errors.PinError`, which lists the chips that are there.
    """
    chips = {chip: _compatible(chip) for chip in sorted((root / "sys/bus/gpio/devices").glob("gpiochip*"))}
    for name in HEADER_CHIPS:
        for chip, names in chips.items():
            if name in names:
                return _number(chip)
    for chip, names in chips.items():
        if _number(chip) == 0 and not names:
            return 0
    seen = ", ".join(f"{chip.name} ({' '.join(names) or 'no device tree'})" for chip, names in chips.items())
    raise PinError(
        f"no GPIO chip of a Raspberry Pi: {seen or 'this machine has none'}",
        hint='Run gated on a Raspberry Pi, or set [pins] factory = "mock" to try it without pins.',
    )


def _compatible(chip: Path) -> tuple[str, ...]:
    try:
        text = (chip / "of_node/compatible").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()
    return tuple(name for name in text.split("\0") if name)


def _number(chip: Path) -> int:
    return int(chip.name.removeprefix("gpiochip"))
