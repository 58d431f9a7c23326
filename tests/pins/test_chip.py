"""Machines made of files: their chips, and their kernels' settings."""

from pathlib import Path

import pytest

from gated.errors import PinError
from gated.pins.chip import LetGo, find_chip, when_let_go

RP1 = b"raspberrypi,rp1-gpio\0"
PI_4 = b"brcm,bcm2711-gpio\0brcm,bcm2835-gpio\0"
PI_3 = b"brcm,bcm2835-gpio\0"
EXPANDER = b"raspberrypi,firmware-gpio\0"
PI_5_OTHER = b"brcm,bcm7445-gpio\0brcm,brcmstb-gpio\0"
UNDESCRIBED = b""


def machine(root: Path, chips: dict[int, bytes]) -> Path:
    for number, compatible in chips.items():
        chip = root / "sys/bus/gpio/devices" / f"gpiochip{number}"
        chip.mkdir(parents=True)
        if compatible:
            (chip / "of_node").mkdir()
            (chip / "of_node/compatible").write_bytes(compatible)
    return root


@pytest.mark.parametrize(
    ("chips", "found"),
    [
        pytest.param({0: PI_3, 1: EXPANDER}, 0, id="Pi 3"),
        pytest.param({0: PI_4, 1: EXPANDER}, 0, id="Pi 4"),
        pytest.param({0: EXPANDER, 1: PI_4}, 1, id="Pi 4, chips swapped"),
        pytest.param({0: PI_5_OTHER, 1: PI_5_OTHER, 4: RP1}, 4, id="Pi 5, early kernels"),
        pytest.param({0: RP1, 10: PI_5_OTHER, 11: PI_5_OTHER}, 0, id="Pi 5, kernel 6.6.45"),
        pytest.param(dict.fromkeys(range(11, 15), PI_5_OTHER) | {15: RP1}, 15, id="Pi 5, 15"),
        pytest.param(dict.fromkeys(range(12, 16), PI_5_OTHER) | {11: RP1}, 11, id="Pi 5, 11"),
        pytest.param({0: UNDESCRIBED, 15: RP1}, 15, id="Pi 5 with a USB adapter first"),
        pytest.param({0: UNDESCRIBED}, 0, id="simulated pins"),
        pytest.param({0: UNDESCRIBED, 1: b"arm,pl061\0"}, 0, id="simulated pins before a virtual machine's"),
    ],
)
def test_the_header_is_found_on_every_machine(tmp_path: Path, chips: dict[int, bytes], found: int) -> None:
    assert find_chip(machine(tmp_path, chips)).number == found


@pytest.mark.parametrize(
    ("chips", "told"),
    [
        ({}, "this machine has none"),
        ({0: PI_5_OTHER, 3: UNDESCRIBED}, r"gpiochip0 \(brcm,bcm7445-gpio .*gpiochip3 \(no device tree\)"),
        ({1: UNDESCRIBED}, r"gpiochip1 \(no device tree\)"),
    ],
)
def test_a_machine_without_a_header_is_an_error_that_lists_its_chips(
    tmp_path: Path, chips: dict[int, bytes], told: str
) -> None:
    with pytest.raises(PinError, match=told):
        find_chip(machine(tmp_path, chips))


def parameter(root: Path, driver: str, value: str) -> None:
    file = root / "sys/module" / driver / "parameters/persist_gpio_outputs"
    file.parent.mkdir(parents=True)
    file.write_text(value)


@pytest.mark.parametrize(
    ("chip", "values", "found"),
    [
        pytest.param(PI_4, {"bcm2835": "N\n"}, LetGo.INPUT, id="Pi 4, strict"),
        pytest.param(PI_3, {"bcm2835": "Y\n"}, LetGo.STAYS, id="Pi 3, as delivered"),
        pytest.param(RP1, {"bcm2835": "Y\n", "rp1": "N\n"}, LetGo.INPUT, id="Pi 5, strict"),
        pytest.param(RP1, {"bcm2835": "N\n", "rp1": "Y\n"}, LetGo.STAYS, id="Pi 5, the wrong driver strict"),
        pytest.param(PI_4, {}, LetGo.UNKNOWN, id="a kernel without the parameter"),
        pytest.param(PI_4, {"bcm2835": "maybe\n"}, LetGo.UNKNOWN, id="a kernel that says something else"),
        pytest.param(UNDESCRIBED, {"bcm2835": "N\n"}, LetGo.UNKNOWN, id="simulated pins"),
    ],
)
def test_the_driver_of_the_headers_chip_says_what_becomes_of_an_output(
    tmp_path: Path, chip: bytes, values: dict[str, str], found: LetGo
) -> None:
    root = machine(tmp_path, {0: chip})
    for driver, value in values.items():
        parameter(root, f"pinctrl_{driver}", value)
    assert when_let_go(find_chip(root), root) is found
