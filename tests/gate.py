"""A real ``gated run`` for tests: its own process and configuration, pseudo-terminals, mock pins."""

import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from gated.api.simulator import Simulator
from gated.control import SOCKET, ask
from gated.errors import ControlError

WITHIN = 10.0  # seconds; a bound for a busy machine, not what is expected


class Line:
    """A serial line with a scanner at our end."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.plug_in()

    def plug_in(self) -> None:
        """Gives the line a device, under the name that stays."""
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(os.ttyname(self._theirs))

    def unplug(self) -> None:
        """Takes the device away: reading it fails from now on."""
        self.link.unlink(missing_ok=True)
        os.close(self._theirs)
        os.close(self._ours)

    def send(self, data: bytes) -> None:
        """What the scanner sends."""
        os.write(self._ours, data)


def uploaded(server: Simulator, barcode: str, codes: list[int]) -> list[int]:
    """The times of a barcode's uploaded scans, when these codes have arrived."""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        scans = [each.scan for each in server.uploaded if each.scan.barcode_id == barcode]
        if [scan.status_code for scan in scans] == codes:
            return [scan.checked_in_time for scan in scans]
        time.sleep(0.02)
    raise AssertionError(f"{barcode}: {scans}")


class GateProcess:
    """One gated; a context manager that ends it. ``events`` are its log lines, as they come."""

    def __init__(self, folder: Path, url: str, *, extra: str = "", gate: str = "", api: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.entry = Line(folder / "entry")
        self.exit = Line(folder / "exit")
        self.config = folder / "gated.toml"
        password = folder / "password"
        password.write_text("secret\n")
        password.chmod(0o600)
        self.config.write_text(
            f"""
            [gate]
            name = "Test gate"
            state_dir = "{folder}/state"
            {gate}
            [api]
            base_url = "{url}"
            username = "gate"
            password_file = "{password}"
            device_info = "DEVICE_ID:TEST"
            {api}
            [pins]
            factory = "mock"
            [[lanes]]
            name = "in"
            direction = "entry"
            scanners = [{{ kind = "serial", device = "{self.entry.link}", repeat_gap_ms = 50 }}]
            release = {{ pin = 17, when_off = "locked", pulse_ms = 100, grant_ms = 1000 }}
            lamps = {{ green = 22, red = 23 }}
            [[lanes]]
            name = "out"
            direction = "exit"
            scanners = [{{ kind = "serial", device = "{self.exit.link}", repeat_gap_ms = 50 }}]
            release = {{ pin = 27, when_off = "locked", pulse_ms = 100, grant_ms = 1000 }}
            {extra}
            """
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self.raw: list[bytes] = []  # the same, as they were written

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts gated and waits until it says that it is ready."""
        command = [sys.executable, "-m", "gated", "run", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        self.wait("ready")

    def stop(self) -> int:
        """Ends gated as systemd would; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WITHIN)

    def wait(self, event: str, **fields: object) -> dict[str, Any]:
        """The next log line of that event with those fields."""
        until = time.monotonic() + WITHIN
        while time.monotonic() < until:
            try:
                line = self._lines.get(timeout=until - time.monotonic())
            except queue.Empty:
                break
            if line is None:
                break
            if line["event"] == event and all(line.get(key) == value for key, value in fields.items()):
                return line
        raise AssertionError(f"no {event} {fields} among:\n" + "\n".join(map(str, self.seen)))

    def scan(self, barcode: str) -> dict[str, Any]:
        """Scans at the entrance; returns the log line of the verdict."""
        self.entry.send(barcode.encode() + b"\r")
        return self.wait("scan", lane="in")

    def status(self) -> dict[str, Any]:
        """What gated says of itself."""
        return next(ask(self.folder / "state" / SOCKET, "status"))

    def wait_until(self, what: str) -> None:
        """Until ``what``, a Python expression over ``status``, is true."""
        until = time.monotonic() + WITHIN
        status: Mapping[str, Any] = {}
        while time.monotonic() < until:
            try:
                status = self.status()
            except ControlError:
                status = {}
            if status and eval(what, {"status": status}):
                return
            time.sleep(0.02)
        raise AssertionError(f"never {what}: {status}")

    def wait_downloaded(self) -> None:
        """Until all tickets are there and both lanes can be read."""
        self.wait_until("status['store']['complete'] and not status['lanes'][0]['shown'] == 'scanner_lost'")

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            self.raw.append(raw)
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": "not json", "raw": raw}
            self.seen.append(line)
            self._lines.put(line)
        self._lines.put(None)
