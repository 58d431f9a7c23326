"""What gated says to systemd, and what it gets from it: sd_notify(3), systemd.exec(5).

All of it is nothing where there is no systemd.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path


class Notifier:
    """Sends states to systemd's notification socket."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
        """After so many seconds without a ping systemd kills the daemon; 0 where it does not watch."""

    def send(self, *states: str) -> None:
        """Sends states such as ``READY=1``. systemd being away is no reason to stop."""
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            try:
                channel.sendto("\n".join(states).encode(), name)
            except OSError:
                return


def credentials_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where systemd put the unit's credentials."""
    return Path(found) if (found := environment.get("CREDENTIALS_DIRECTORY")) else None


def runtime_directory(state_dir: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the control socket is: /run/gated for the gate of this machine, else beside its state."""
    if found := environment.get("RUNTIME_DIRECTORY"):
        return Path(found.split(":")[0])
    return Path("/run/gated") if state_dir == Path("/var/lib/gated") else state_dir
