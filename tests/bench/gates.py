"""What is measured: servers, gates and floors as processes, and states of a gate with so many tickets."""

import json
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tests.bench.sender import Sender
from tests.bench.server import barcode

NO_SERVER = "http://127.0.0.1:9/scanapi/v2.0"  # port 9 is refused at once: a gate without a network
READY_S, DOWNLOAD_S = 60.0, 3600.0  # bounds, not what is expected

# The pulse outlasts any stall of the gate: the barrier relocks when the guest is through, and not before.
# Should a stall hide the guest, the grant ends with it: one that stood longer would swallow the next scan.
_CONFIG = """
[gate]
name = "Measured gate"
state_dir = "{folder}/state"
[api]
base_url = "{url}"
username = "gate"
password_file = "{folder}/password"
device_info = "DEVICE_ID:BENCH"
[pins]
factory = "mock"
[[lanes]]
name = "in"
direction = "entry"
scanners = [{{ kind = "serial", device = "{folder}/scanner", repeat_gap_ms = 0 }}]
release = {{ pin = 17, when_off = "locked", pulse_ms = 3000, grant_ms = 3000 }}
passage = {{ done_pin = 5 }}
lamps = {{ green = 22, red = 23 }}
"""


@contextmanager
def process(*words: object, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python process of ours, ended with the block."""
    command = [sys.executable, *map(str, words)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    try:
        yield running
    finally:
        running.terminate()
        running.communicate()


def line(running: "subprocess.Popen[bytes]") -> str:
    """The next line a process says. Raises RuntimeError if it ends instead."""
    assert running.stdout is not None
    said = running.stdout.readline().decode().strip()
    if not said:
        raise RuntimeError(f"{running.args!r} has ended")
    return said


@contextmanager
def server(tickets: int) -> Iterator[str]:
    """A server with so many tickets; its address."""
    with process("-m", "tests.bench.server", "--tickets", tickets) as running:
        yield line(running)


class Gate:
    """A ``gated run`` of one lane; a context manager that ends it."""

    def __init__(self, folder: Path, url: str, *, observed: bool = False, trace: Path | None = None) -> None:
        """``observed``: the pin reports to ``sender``. ``trace``: where strace writes what it sees."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.sender = Sender(folder / "scanner")
        config = folder / "gated.toml"
        config.write_text(_CONFIG.format(folder=folder, url=url))
        password = folder / "password"
        password.write_text("secret\n")
        password.chmod(0o600)
        run = ["-m", "gated", "run"]
        if observed:
            run = ["-m", "tests.bench.observed", str(self.sender.report)]
        # -D: the gate, not strace, is our child
        strace = ["strace", "-D", "-f", "-q", "-s", "64", "-e", "trace=read,write,fsync,fdatasync", "-o"]
        self._command = [
            *([*strace, str(trace)] if trace else []),
            sys.executable,
            *run,
            "--config",
            str(config),
        ]
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def __enter__(self) -> Self:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[self.sender.report]
        )
        threading.Thread(target=self._read, daemon=True).start()
        found = False
        while (said := self._next(READY_S))["event"] != "ready":
            found = found or said["event"] == "scanner_found"
        self.ready_s = time.perf_counter() - self.begun
        if not found:
            self.wait("scanner_found", READY_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(READY_S)
        self.sender.close()

    def wait(self, event: str, within: float) -> dict[str, Any]:
        """The next log line of that event."""
        until = time.monotonic() + within
        while True:
            said = self._next(until - time.monotonic())
            if said["event"] == event:
                return said

    def said(self, *events: str) -> bool:
        """Whether it has said any of these since it was last asked; what else it said is forgotten."""
        found = False
        while not self._lines.empty():
            found = self._next(0)["event"] in events or found
        return found

    def memory(self, what: str) -> float:
        """``VmRSS``, resident now, or ``VmHWM``, the most it ever was: megabytes."""
        return memory(self.process.pid, what)

    def processor_s(self) -> float:
        """Seconds of processor that its threads have had so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def _next(self, within: float) -> dict[str, Any]:
        try:
            said = self._lines.get(timeout=max(0, within))
        except queue.Empty:
            raise TimeoutError("the gate has not said what was waited for") from None
        if said is None or said["event"] == "not json":
            raise RuntimeError(f"the gate has ended: {said}")
        return said

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            try:
                self._lines.put(json.loads(raw))
            except ValueError:
                self._lines.put({"event": "not json", "raw": raw})
        self._lines.put(None)


def memory(pid: int, what: str) -> float:
    """A line of /proc/PID/status in megabytes (proc(5) has kB, of 1024 bytes)."""
    [found] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith(what)]
    return int(found.split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class State:
    """What a gate that has downloaded so many tickets left on disk, and what the download was like."""

    folder: Path
    tickets: int
    download_s: float
    peak_mb: float
    resting_mb: float

    def barcodes(self) -> Iterator[str]:
        """All barcodes once, in no order."""
        numbers = list(range(self.tickets))
        random.Random(self.tickets).shuffle(numbers)
        return map(barcode, numbers)

    def copied(self, folder: Path) -> Path:
        """A copy for a gate of its own."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "state", folder / "state")
        return folder


def download(folder: Path, tickets: int, url: str) -> State:
    """Lets a new gate download so many tickets, and looks at it."""
    with Gate(folder, url) as gate:
        begun = gate.wait("service", READY_S)
        ended = gate.wait("full_download", DOWNLOAD_S)
        peak = gate.memory("VmHWM")
        time.sleep(2.0)  # until it is at rest
        resting = gate.memory("VmRSS")
    took = datetime.fromisoformat(ended["timestamp"]) - datetime.fromisoformat(begun["timestamp"])
    if ended["tickets"] != tickets:
        raise RuntimeError(f"{ended['tickets']} of {tickets} tickets came")
    return State(folder, tickets, took.total_seconds(), peak, resting)


@contextmanager
def path_floor(folder: Path) -> Iterator[Sender]:
    """The floor of a scan's path."""
    folder.mkdir(parents=True, exist_ok=True)
    sender = Sender(folder / "scanner")
    words = ("-m", "tests.bench.floors", "path", sender.link, sender.report, folder)
    with process(*words, pass_fds=[sender.report]) as running:
        line(running)
        yield sender
    sender.close()


def libraries() -> list[str]:
    """The modules, of others, that a running gate has imported."""
    code = (
        "import sys, gated.__main__, gated.app, gated.log, gated.pins.devices;"
        "print(*[name for name in sys.modules if name.split('.')[0] not in ('gated', '__main__')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()
