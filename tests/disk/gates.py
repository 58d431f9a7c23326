"""A gate whose state alone is on a disk that fails, what it shows, and what it tells systemd.

It has /var/lib/gated and /run/gated as on a Pi, in a mount namespace of its own: there the control socket is
in memory.
"""

import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from gated.control import SOCKET, ask
from gated.errors import ControlError
from tests.disk.disks import Disk
from tests.gate import GateProcess

# $1 is where the state is, $2 where the control socket comes; the rest is the command.
_AS_ON_A_PI = """
set -e
for each in /var/lib /run; do mount -t tmpfs none $each; mkdir $each/gated; done
mount --bind "$1" /var/lib/gated
mount --bind "$2" /run/gated
shift 2
exec "$@"
"""


class DiskGate(GateProcess):
    """A gate on a disk, not started yet."""

    def __init__(self, disk: Disk, url: str, on_failure: str = "admit") -> None:
        super().__init__(disk.at.parent, url, extra=f'[disk]\non_failure = "{on_failure}"')
        self._state, self._run = disk.at, disk.at.with_name("run")
        self._run.mkdir(exist_ok=True)
        (self._run / SOCKET).unlink(missing_ok=True)
        text = self.config.read_text()
        self.config.write_text(text.replace(f'state_dir = "{self.folder}/state"', ""))

    def start(self) -> None:
        """Starts gated and waits until it says that it is ready."""
        run = ["unshare", "--mount", "sh", "-c", _AS_ON_A_PI, "sh", str(self._state), str(self._run)]
        gated = [sys.executable, "-m", "gated", "run", "--config", str(self.config)]
        self.process = subprocess.Popen([*run, *gated], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        self.wait("ready")

    def remount(self, options: str) -> None:
        """Mounts its disk anew as it is, also where the gate sees it."""
        inside = ["nsenter", "--target", str(self.process.pid), "--mount"]
        subprocess.run([*inside, "mount", "-o", f"remount,{options}", "/var/lib/gated"], check=True)

    def status(self) -> dict[str, Any]:
        """What gated says of itself."""
        return next(ask(self._run / SOCKET, "status"))

    def purge(self) -> str:
        """Purges; returns why that was not done."""
        try:
            list(ask(self._run / SOCKET, "purge"))
        except ControlError as error:
            return str(error)
        return ""

    def shown(self) -> "Shown":
        """What its lanes show from now on."""
        return Shown(self._run / SOCKET)


class Shown:
    """What lanes show, as it changes, noted by a thread while the test does other things."""

    def __init__(self, control: Path) -> None:
        self._seen: list[tuple[str, str]] = []  # lane, outcome
        self._events = ask(control, "watch")
        for _ in range(2):
            self._note(next(self._events))
        threading.Thread(target=self._watch, daemon=True).start()

    def until(self, outcome: str, lane: str = "in", within: float = 5.0) -> None:
        """Waits until a lane shows it."""
        until = time.monotonic() + within
        while [what for where, what in self._seen if where == lane][-1] != outcome:
            assert time.monotonic() < until, f"{lane} never showed {outcome}: {self._seen}"
            time.sleep(0.02)

    def _watch(self) -> None:
        try:
            for event in self._events:
                self._note(event)
        except ControlError:
            return

    def _note(self, event: dict[str, Any]) -> None:
        if event["what"] == "view":
            self._seen.append((event["lane"], event["shown"]))
        elif event["what"] == "shown":
            self._seen.append((event["lane"], event["outcome"]))


class Watchdog:
    """The socket at which systemd waits for a sign of life."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pings: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def longest_gap(self, since: float) -> float:
        """The longest time without a ping from ``since``, a monotonic time, until now, in seconds."""
        times = [since, *(each for each in self._pings if each > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def _listen(self) -> None:
        while True:
            if b"WATCHDOG=1" in self._socket.recv(4096):
                self._pings.append(time.monotonic())
