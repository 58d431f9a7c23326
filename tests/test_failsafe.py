"""The fail-safe on a kernel made of Python: what that is asked, bit by bit, and what comes of a refusal."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack_into, unpack_from

import pytest
from structlog.testing import capture_logs

from gated import failsafe
from gated.app import App
from gated.build import safe_levels
from gated.config import parse
from gated.failsafe import make_safe, read_config, read_record, remember
from gated.pins.chip import Chip, LetGo

ROOT = Path(__file__).parent.parent
RELEASE, LAMP = 17, 22

# linux/gpio.h on a 64-bit machine, by offset: what gpio_v2_line_request holds, and where.
GET_LINE, GET_VALUES = 0xC250B407, 0xC010B40E
CONSUMER, FLAGS, NUM_ATTRS, ATTR_ID, ATTR_BITS, ATTR_MASK, NUM_LINES, FD = (
    256,
    288,
    296,
    320,
    328,
    336,
    560,
    588,
)


@dataclass
class Kernel:
    """As much of the kernel's gpiolib as is used, behind ``fcntl.ioctl``."""

    requests: list[dict[int, int]] = field(default_factory=list)
    levels: dict[int, int] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    stuck: dict[int, int] = field(default_factory=dict)
    slow: bool = False
    claimed: dict[int, list[int]] = field(default_factory=dict)

    def ioctl(self, fd: int, number: int, buffer: bytearray) -> int:
        return {GET_LINE: self._request, GET_VALUES: self._values}[number](fd, buffer)

    def _request(self, _chip: int, buffer: bytearray) -> int:
        assert len(buffer) == 592
        (count,) = unpack_from("=I", buffer, NUM_LINES)
        lines = list(unpack_from(f"={count}I", buffer))
        assert unpack_from("=QI", buffer, FLAGS) == (1 << 3, 1)
        identity, bits, mask = (unpack_from("=I", buffer, ATTR_ID), *unpack_from("=QQ", buffer, ATTR_BITS))
        assert (identity, mask) == ((2,), (1 << count) - 1)
        assert buffer[CONSUMER:FLAGS].rstrip(b"\0") == b"gated.failsafe"
        assert not any(buffer[ATTR_MASK + 8 : NUM_LINES])  # the other attributes, all zero
        assert not any(buffer[NUM_LINES + 4 : FD])
        wanted = {line: bits >> index & 1 for index, line in enumerate(lines)}
        self.requests.append(wanted)
        if self.busy & wanted.keys():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.levels |= wanted
        fd = os.open(os.devnull, os.O_RDONLY)
        self.claimed[fd] = lines
        pack_into("=i", buffer, FD, fd)
        return 0

    def _values(self, fd: int, buffer: bytearray) -> int:
        _, mask = unpack_from("=QQ", buffer)
        real = self.levels | self.stuck
        lines = self.claimed[fd]
        assert mask == (1 << len(lines)) - 1
        bits = sum(real[line] << index for index, line in enumerate(lines))
        if self.slow:
            self.slow, bits = False, bits ^ mask
        pack_into("=Q", buffer, 0, bits)
        return 0

    @property
    def held(self) -> list[list[int]]:
        """The lines that are still claimed."""
        return [lines for fd, lines in self.claimed.items() if os.path.exists(f"/proc/self/fd/{fd}")]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr("fcntl.ioctl", kernel.ioctl)
    return kernel


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


CHIP = os.devnull  # any file that can be opened: the kernel above asks no more of it
LEVELS = {RELEASE: 0, LAMP: 1, 5: 0}


def test_all_lines_are_driven_to_their_safe_levels_in_one_request(kernel: Kernel) -> None:
    assert make_safe(CHIP, LEVELS) == []
    assert kernel.requests == [LEVELS]
    assert kernel.levels == LEVELS


def test_every_line_is_let_go(kernel: Kernel) -> None:
    kernel.stuck = {LAMP: 0}
    make_safe(CHIP, LEVELS)
    kernel.busy = {RELEASE}
    make_safe(CHIP, LEVELS)
    assert len(kernel.requests) == 5
    assert kernel.held == []


def test_a_line_that_is_held_keeps_no_other_energised(kernel: Kernel) -> None:
    kernel.busy = {RELEASE}
    assert make_safe(CHIP, LEVELS) == [f"GPIO{RELEASE} can't be driven: Device or resource busy"]
    assert kernel.levels == {LAMP: 1, 5: 0}


@pytest.mark.parametrize(("line", "driven"), [(RELEASE, "low"), (LAMP, "high")])
def test_a_line_that_reads_otherwise_is_told(kernel: Kernel, line: int, driven: str) -> None:
    kernel.stuck = {line: 1 - LEVELS[line]}
    assert make_safe(CHIP, LEVELS) == [f"GPIO{line} was driven {driven} and reads otherwise: is it shorted?"]


def test_a_line_that_follows_slowly_is_no_fault(kernel: Kernel) -> None:
    kernel.slow = True
    assert make_safe(CHIP, LEVELS) == []


def test_a_chip_that_is_not_there_is_told() -> None:
    assert make_safe("/dev/nothing", LEVELS) == ["/dev/nothing can't be opened: No such file or directory"]


# Which lines


@pytest.fixture
def machine(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with ``outputs`` and ``gated.toml``, on a machine whose header is gpiochip3."""
    opened = os.open

    def open_chip(path: str, flags: int) -> int:
        return opened(CHIP if path == "/dev/gpiochip3" else path, flags)

    monkeypatch.setattr("gated.failsafe._find_chip", lambda: 3)
    monkeypatch.setattr("gated.failsafe.os.open", open_chip)
    return tmp_path


def main(machine: Path) -> int:
    return failsafe.main(str(machine / "outputs"), str(machine / "gated.toml"))


SOUND = """
[[lanes]]
release = { pin = 17, active_high = false }
lamps = { green = 22, red = 23 }
buzzer = { pin = 24 }
[[lanes]]
release = { pin = 27 }
lamps = { white = 5, active_high = false }
"""
SOUND_LEVELS = {17: 1, 22: 0, 23: 0, 24: 0, 27: 0, 5: 1}


def test_what_the_daemon_wrote_down_is_read_back(tmp_path: Path) -> None:
    remember(str(tmp_path / "outputs"), 15, LEVELS)
    assert read_record(str(tmp_path / "outputs")) == (15, LEVELS)
    assert [each.name for each in tmp_path.iterdir()] == ["outputs"]


def test_the_record_of_the_daemon_outranks_the_config(machine: Path, kernel: Kernel) -> None:
    remember(str(machine / "outputs"), 3, LEVELS)
    (machine / "gated.toml").write_text(SOUND)
    assert main(machine) == 0
    assert kernel.levels == LEVELS


def test_without_a_record_the_config_says_which_lines(machine: Path, kernel: Kernel) -> None:
    (machine / "gated.toml").write_text(SOUND)
    assert main(machine) == 0
    assert kernel.levels == SOUND_LEVELS


@pytest.mark.parametrize("record", ["", "3\n17", "3\n17 x\n", "three\n17 0\n"])
def test_a_record_that_can_not_be_read_is_told_and_the_config_stands_in(
    machine: Path, kernel: Kernel, told: Callable[[], str], record: str
) -> None:
    (machine / "outputs").write_text(record)
    (machine / "gated.toml").write_text(SOUND)
    assert main(machine) == 0
    assert kernel.levels == SOUND_LEVELS
    assert "outputs can't be read" in told()


UNSOUND = {
    "not TOML": "lanes = [",
    "no lane": "[gate]",
    "lanes of another kind": "lanes = 1",
    "no release": "[[lanes]]",
    "no pin": "[[lanes]]\nrelease = {}",
    "a pin in words": "[[lanes]]\nrelease = { pin = '17' }",
    "the boot console's pin": "[[lanes]]\nrelease = { pin = 14 }",
    "no pin of the header": "[[lanes]]\nrelease = { pin = 40 }",
    "yes for a pin": "[[lanes]]\nrelease = { pin = true }",
    "a level in words": "[[lanes]]\nrelease = { pin = 17, active_high = 'no' }",
    "a pin used twice": "[[lanes]]\nrelease = { pin = 17 }\nlamps = { green = 17, active_high = false }",
    "a lamp in words": "[[lanes]]\nrelease = { pin = 17 }\nlamps = { green = 'on' }",
}


@pytest.mark.parametrize("text", UNSOUND.values(), ids=UNSOUND)
def test_a_config_whose_outputs_are_not_sound_drives_nothing(
    machine: Path, kernel: Kernel, told: Callable[[], str], text: str
) -> None:
    (machine / "gated.toml").write_text(text)
    assert main(machine) == 0  # gated was refused it too, and never claimed an output
    assert kernel.requests == []
    assert "nothing was driven" in told()


def test_neither_record_nor_config_leaves_nothing_to_do(machine: Path, told: Callable[[], str]) -> None:
    assert main(machine) == 0
    assert "nothing was driven" in told()


def test_a_broken_record_with_a_config_that_does_not_help_is_a_failure(machine: Path) -> None:
    (machine / "outputs").write_text("")
    assert main(machine) == 1


def test_pins_in_memory_are_left_alone(machine: Path, kernel: Kernel, told: Callable[[], str]) -> None:
    (machine / "gated.toml").write_text(SOUND + "[pins]\nfactory = 'mock'\n")
    assert (main(machine), kernel.requests, told()) == (0, [], "")


def test_what_went_wrong_is_told_and_is_the_exit_status(
    machine: Path, kernel: Kernel, told: Callable[[], str]
) -> None:
    remember(str(machine / "outputs"), 3, LEVELS)
    kernel.busy = {RELEASE}
    assert main(machine) == 1
    assert told() == f"gated.failsafe: GPIO{RELEASE} can't be driven: Device or resource busy\n"


def test_a_machine_without_a_header_is_told(tmp_path: Path, told: Callable[[], str]) -> None:
    (tmp_path / "gated.toml").write_text(SOUND)
    assert main(tmp_path) == 0
    assert "no GPIO chip of a Raspberry Pi" in told()


WIRED = """
[gate]
name = "Gate"
[api]
username = "gate"
device_info = "DEVICE_ID:TEST"
[[lanes]]
name = "in"
direction = "entry"
scanners = [{ kind = "serial", device = "/dev/serial/by-id/in" }]
release = { pin = 17, active_high = false, when_off = "locked" }
lamps = { green = 22, red = 23 }
buzzer = { pin = 24 }
[[lanes]]
name = "out"
direction = "exit"
scanners = [{ kind = "serial", device = "/dev/serial/by-id/out" }]
release = { pin = 27, when_off = "free" }
lamps = { white = 5, active_high = false }
"""


def test_record_and_config_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "gated.toml").write_text(WIRED)
    assert read_config(str(tmp_path / "gated.toml")) == safe_levels(parse(WIRED)) == SOUND_LEVELS


@pytest.mark.parametrize(
    ("let_go", "warned"), [(LetGo.INPUT, False), (LetGo.STAYS, True), (LetGo.UNKNOWN, True)]
)
def test_the_daemon_writes_its_outputs_down_and_warns_of_a_kernel_that_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, let_go: LetGo, warned: bool
) -> None:
    monkeypatch.setattr("gated.app.find_chip", lambda root: Chip(15, "pinctrl_rp1"))
    monkeypatch.setattr("gated.app.when_let_go", lambda chip, root: let_go)
    config = parse(WIRED.replace("[gate]", f"[gate]\nstate_dir = '{tmp_path}'"))
    with capture_logs() as logged:
        App(config, "")._prepare_for_death()
    assert read_record(str(tmp_path / failsafe.RECORD)) == (15, SOUND_LEVELS)
    assert [line["event"] for line in logged] == ["outputs_outlive_gated"] * warned


def test_a_daemon_that_can_not_write_them_down_starts_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gated.app.find_chip", lambda root: Chip(0, ""))
    config = parse(WIRED.replace("[gate]", f"[gate]\nstate_dir = '{tmp_path}/nowhere'"))
    with capture_logs() as logged:
        App(config, "")._prepare_for_death()
    assert logged[0]["event"] == "failsafe_not_recorded"


# How fast, and by whom


def test_it_starts_with_next_to_nothing() -> None:
    script = "import sys; before = {*sys.modules}; import gated.failsafe; print(*{*sys.modules} - before)"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    slow = {"asyncio", "dataclasses", "enum", "pathlib", "re", "tomllib", "typing"}
    imported = {*done.stdout.split()}
    assert {name for name in imported if name in slow or name.startswith("gated.")} == {"gated.failsafe"}


def test_the_unit_runs_it_before_each_start_and_after_each_end() -> None:
    unit = (ROOT / "systemd" / "gated.service").read_text()
    lines = dict(re.findall(r"^(ExecStartPre|ExecStopPost)=(.*)$", unit, re.MULTILINE))
    command = "/opt/gated/bin/python -I -m gated.failsafe"
    assert lines == {"ExecStartPre": f"-{command}", "ExecStopPost": command}
