"""The virtual Pi's rows: from a scanner's terminator to the relay's line, beside the least C needs for that.

One boot. A C program (vm_floor.c) and gated under systemd read the same keyboard and the same serial port,
sync to the same disk and raise the same lines, in turns; vm_guest.py takes the times from outside of both.
The processor is emulated, so the ratio counts and the milliseconds do not.
"""

import json
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

from tests.bench.figures import Row, Samples, Statistic, ratio
from tests.vm.conftest import Fact, built, found, live

_HERE = Path(__file__).parent
_ROUND_LIMIT_S = 600  # on a busy host: the pauses between scans alone are 90
_INSTALL_LIMIT_S = 1800
_SCANNERS = {"hid": "HID", "serial": "serial"}


def measure(folder: Path, rounds: int, scans: int) -> list[Row]:
    """So many rounds of so many scans of each kind on each side. Needs root; may build the machine."""
    took, rows = _rounds(folder, rounds, scans), []
    for kind, name in _SCANNERS.items():
        floor, ours = (_samples(took, f"{kind} {side}", scans) for side in ("floor", "gated"))
        metric, least = f"{name} terminator to relay line, virtual Pi", "C: read, 64 bytes on disk, line"
        rows.append(ratio(metric, "ms", least, floor, ours, 3.0))
        rows.append(ratio(metric, "ms", least, floor, ours, None, Statistic.P99))
    return rows


def _rounds(folder: Path, rounds: int, scans: int) -> list[Fact]:
    """The rounds that came to their end; of the others it is told why they did not."""
    files = {
        "vm_guest.py": (_HERE / "vm_guest.py").read_text(),
        "gated.toml": (_HERE / "vm_gated.toml").read_text(),
        "vm_floor": _compiled(folder),
        "sizes": json.dumps([rounds, scans]),
    }
    print(f"pi: what the guest has said so far is in {folder}/pi/boot/run.out", file=sys.stderr)
    facts = live(built(), folder / "pi", "vm_guest.py", _INSTALL_LIMIT_S + rounds * _ROUND_LIMIT_S, **files)
    found(facts, "install")
    took = [facts.get(f"round {number}", {"error": "never begun"}) for number in range(1, rounds + 1)]
    for number, fact in enumerate(took, 1):
        if "error" in fact:
            print(f"pi: round {number} does not count: {fact['error']}", file=sys.stderr)
    if all("error" in fact for fact in took):
        raise RuntimeError("no round came to its end")
    return [fact for fact in took if "error" not in fact]


def _samples(took: list[Fact], kind: str, scans: int) -> Samples:
    values = tuple(value for fact in took for value in fact[kind])
    if missed := len(took) * scans - len(values):
        print(f"pi: {kind}: {missed} scans came to nothing and do not count", file=sys.stderr)
    return Samples(values)


def _compiled(folder: Path) -> str:
    """The floor, for a machine without a compiler or our libraries, as text that can travel."""
    if shutil.which("gcc") is None:
        raise RuntimeError("gcc compiles the floor: sudo apt install gcc libc6-dev")
    program = folder / "vm_floor"
    command = ("gcc", "-O2", "-Wall", "-static", "-o", program, _HERE / "vm_floor.c")
    subprocess.run(command, check=True)
    return b64encode(program.read_bytes()).decode()
