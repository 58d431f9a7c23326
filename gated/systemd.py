"""What gated says to systemd, and what it gets from it: sd_notify(3), systemd.exec(5).

All of it is nothing where there is no systemd.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

# StateDirectory= and RuntimeDirectory= of the unit.
STATE_DIRECTORY = Path("/var/lib/gated")
_RUNTIME_DIRECTORY = Path("/run/gated")


class Notifier:
    """Sends states to systemd's notification socket."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")

    def send(self, *states: str) -> None:
        """Sends states such as ``READY=1``. systemd being away or busy is no reason to stop or to wait."""
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(states).encode(), name)
        except OSError:
            return


def credentials_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where systemd put the unit's credentials."""
    return Path(found) if (found := environment.get("CREDENTIALS_DIRECTORY")) else None


def runtime_directory(state_dir: Path) -> Path:
    """Where the control socket is: in /run for the gate of this machine, else beside the gate's state.

    It follows from the configuration alone, as the daemon and whoever commands it must agree:
    ``$RUNTIME_DIRECTORY`` is told to the daemon only.
    """
    return _RUNTIME_DIRECTORY if state_dir == STATE_DIRECTORY else state_dir
