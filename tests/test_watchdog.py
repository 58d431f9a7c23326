"""What systemd's watchdog hears of a real process whose network hangs, and of one whose loop does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHIN = 10.0  # seconds; a bound for a busy machine, not what is expected
SOON = 5.0  # a third of what systemd waits
HANGS_S = 1.0


class Supervised:
    """A gate under a notification socket of ours, as systemd has one."""

    def __init__(self, folder: Path, url: str) -> None:
        config = folder / "gated.toml"
        config.write_text(
            f"""
            [gate]
            name = "Test gate"
            state_dir = "{folder}/state"
            [api]
            base_url = "{url}"
            username = "gate"
            device_info = "DEVICE_ID:TEST"
            [pins]
            factory = "mock"
            [[lanes]]
            name = "in"
            direction = "entry"
            scanners = [{{ kind = "serial", device = "{folder}/scanner" }}]
            release = {{ pin = 17, when_off = "locked" }}
            """
        )
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(str(folder / "notify"))
        self._ear.settimeout(WITHIN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.driven", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "15000000"},
        )

    def hear(self, state: bytes) -> float:
        """Waits until it says so; returns when."""
        while state not in self._ear.recv(1000).split(b"\n"):
            pass
        return time.monotonic()

    def longest_silence(self, seconds: float) -> float:
        """The longest time without a ping in so many seconds."""
        began = last = time.monotonic()
        longest = 0.0
        while last - began < seconds:
            at = self.hear(b"WATCHDOG=1")
            longest, last = max(longest, at - last), at
        return longest

    def command(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._ear.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/scanapi/v2.0"


@pytest.mark.parametrize("hangs", ["server", "name"])
def test_pings_go_on_while_the_network_hangs_and_stop_while_the_loop_does(
    hangs: str, silent: str, tmp_path: Path
) -> None:
    with contextlib.closing(
        Supervised(tmp_path, silent if hangs == "server" else "https://api.example/scanapi/v2.0")
    ) as gate:
        gate.command("dns 60")
        gate.hear(b"READY=1")
        assert gate.longest_silence(0.5) < SOON
        gate.command(f"hang {HANGS_S}")
        assert gate.longest_silence(HANGS_S) >= HANGS_S - 0.1
        began = time.monotonic()
        gate.process.send_signal(signal.SIGTERM)
        assert gate.process.wait(WITHIN) == 0
        assert time.monotonic() - began < SOON
