"""Makes every output safe when the daemon no longer can: after a stop, a crash, a kill, and before a start.

    python -I -m gated.failsafe [RECORD [CONFIG]]

A Raspberry Pi's kernel may keep an output at its level when the process that drove it is gone, so a gate that
is killed in the middle of a pulse would stay released. systemd runs this as ``ExecStopPost=``, however the
daemon ended, and as ``ExecStartPre=``, so that no relay waits for the daemon's libraries. Three rules:

- It needs nothing of the daemon. A relay stays energised for as long as this takes to start, so it imports
  next to nothing, and talks to the kernel itself.
- Which lines, and their safe levels, the daemon wrote down before it claimed the first: the config may be
  another by now. Without that record the config is read, but only driven where every output in it is sound.
- All lines are driven in one request; if the kernel refuses that, each on its own, so that one line that is
  held by another program keeps no other energised. What failed is told, and is the exit status 1.

Numbers and structures are those of linux/gpio.h, version 2 of the interface (Linux 5.10 and later).
"""

import fcntl
import os
import struct
import sys
import time

RECORD = "outputs"  # in the runtime directory, which systemd removes after ExecStopPost
_RECORD = f"/run/gated/{RECORD}"
_CONFIG = "/etc/gated/gated.toml"

Levels = dict[int, int]
"""The safe level, 0 or 1, of each line that is an output."""

# struct gpio_v2_line_request: 64 offsets; consumer; flags, number of attributes; 10 attributes of id, value
# and mask, of which the first is used; number of lines, size of the event buffer; file descriptor.
_REQUEST = struct.Struct("=64I 32s QI20x I4xQQ216x II20xi")
_VALUES = struct.Struct("=QQ")  # struct gpio_v2_line_values: bits, mask
_LINES = 64
_OUTPUT = 1 << 3  # GPIO_V2_LINE_FLAG_OUTPUT
_OUTPUT_VALUES = 2  # GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES

_SETTLE_S = 0.001  # for a line that a long wire or a filter makes slow

_PINS = frozenset(range(4, 28)) - {14, 15}  # those that the config allows for outputs


def _iowr(number: int, size: int) -> int:
    """_IOWR(0xB4, number, a structure of that size), as asm-generic/ioctl.h makes it."""
    return 3 << 30 | size << 16 | 0xB4 << 8 | number


_GET_LINE = _iowr(0x07, _REQUEST.size)
_GET_VALUES = _iowr(0x0E, _VALUES.size)


def remember(record: str, chip: int, levels: Levels) -> None:
    """Writes down what is to be made safe, before it is claimed. Raises OSError."""
    lines = "".join(f"{line} {level}\n" for line, level in levels.items())
    with open(f"{record}.new", "w", encoding="ascii") as file:
        file.write(f"{chip}\n{lines}")
    os.replace(f"{record}.new", record)


def make_safe(device: str, levels: Levels) -> list[str]:
    """Drives lines of the chip ``device`` to their levels and lets them go; returns what went wrong."""
    try:
        chip = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return [f"{device} can't be opened: {error.strerror}"]
    try:
        return _drive_each(chip, levels)
    finally:
        os.close(chip)


def _drive_each(chip: int, levels: Levels) -> list[str]:
    try:
        return _drive(chip, levels)
    except OSError:
        pass
    wrong = []
    for line, level in levels.items():
        try:
            wrong += _drive(chip, {line: level})
        except OSError as error:
            wrong.append(f"GPIO{line} can't be driven: {error.strerror}")
    return wrong


def _drive(chip: int, levels: Levels) -> list[str]:
    """Drives lines in one request. Raises OSError if the kernel refuses it."""
    lines = list(levels)
    bits = sum(level << index for index, level in enumerate(levels.values()))
    mask = (1 << len(lines)) - 1
    offsets = lines + [0] * (_LINES - len(lines))
    request = bytearray(
        _REQUEST.pack(*offsets, b"gated.failsafe", _OUTPUT, 1, _OUTPUT_VALUES, bits, mask, len(lines), 0, 0)
    )
    fcntl.ioctl(chip, _GET_LINE, request)
    claimed = _REQUEST.unpack(request)[-1]
    try:
        otherwise = bits ^ _read(claimed, mask)
        if otherwise:
            time.sleep(_SETTLE_S)
            otherwise = bits ^ _read(claimed, mask)
    finally:
        os.close(claimed)
    return [
        f"GPIO{line} was driven {'high' if levels[line] else 'low'} and reads otherwise: is it shorted?"
        for index, line in enumerate(lines)
        if otherwise >> index & 1
    ]


def _read(claimed: int, mask: int) -> int:
    values = bytearray(_VALUES.pack(0, mask))
    fcntl.ioctl(claimed, _GET_VALUES, values)
    bits: int = _VALUES.unpack(values)[0]
    return bits & mask


def read_record(record: str) -> tuple[int, Levels]:
    """The chip's number and the levels that the daemon wrote down. Raises OSError, ValueError."""
    with open(record, encoding="ascii") as file:
        chip, *lines = file.read().splitlines()
    levels = {}
    for each in lines:
        line, level = each.split()
        levels[int(line)] = int(level)
    return int(chip), levels


def read_config(config: str) -> Levels:
    """The safe levels of a config's outputs; none where its pins are no Pi's. Raises OSError, ValueError."""
    import tomllib

    with open(config, "rb") as file:
        document = tomllib.load(file)
    try:
        if document.get("pins", {}).get("factory", "lgpio") != "lgpio":
            return {}
        return _levels(document["lanes"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it can't be used: {error!r}") from error


def _levels(lanes: list[dict[str, dict[str, object]]]) -> Levels:
    levels: Levels = {}
    for lane in lanes:
        lamps = lane.get("lamps", {})
        outputs = [lane["release"], *([lane["buzzer"]] if "buzzer" in lane else [])]
        wired = [(output["pin"], output.get("active_high", True)) for output in outputs]
        wired += [
            (pin, lamps.get("active_high", True)) for name, pin in lamps.items() if name != "active_high"
        ]
        for pin, active_high in wired:
            if type(pin) is not int or pin not in _PINS or type(active_high) is not bool or pin in levels:
                raise ValueError(f"{pin!r} is no pin for an output, or is used twice")
            levels[pin] = int(not active_high)
    return levels


def main(record: str = _RECORD, config: str = _CONFIG) -> int:
    """Returns the exit status: 0 if every output is safe, or none was ever claimed; else 1."""
    try:
        chip, levels = read_record(record)
    except (OSError, ValueError) as error:
        claimed = not isinstance(error, FileNotFoundError)
        if claimed:
            _tell(f"{record} can't be read, so {config} is: {error}")
        try:
            levels = read_config(config)
            chip = _find_chip() if levels else 0
        except (OSError, ValueError) as mistake:
            _tell(f"nothing was driven; {config}: {mistake}")
            return int(claimed)
    wrong = make_safe(f"/dev/gpiochip{chip}", levels) if levels else []
    for each in wrong:
        _tell(each)
    return int(bool(wrong))


def _find_chip() -> int:
    """Raises OSError where this machine has no header."""
    from pathlib import Path

    from gated.errors import PinError
    from gated.pins.chip import find_chip

    try:
        return find_chip(Path("/")).number
    except PinError as error:
        raise OSError(str(error)) from error


def _tell(what: str) -> None:
    print(f"gated.failsafe: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
