"""A virtual Pi whose power is cut, and the server that outlives it.

- A cut is SIGKILL to QEMU. What the guest had not yet written to its disk is gone; what it had is there,
  flushed or not, since no cache stands between (README.md says what this does not show).
- Before the gate starts again, what the cut has left is taken out on a disk of its own, and judged here.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gated.api.simulator import Endpoint, Event, Simulator
from gated.api.simulator.answers import Answer, Request, route
from gated.api.simulator.faults import Planned

HERE = Path(__file__).parent
LUGGAGE = ("bench.sh", "pi.py", "cut.py", "cut.toml", "cut_install.sh")
LEFT_BYTES = 64 * 1024 * 1024  # room for what is taken out
DISK_MB = 1500
# The second line is what makes an emulated boot shorter. The third is for a busy host, on which the emulated
# timer may seem dead; a kernel that panics all the same ends QEMU.
KERNEL = (
    "console=ttyS0 quiet rw net.ifnames=0"
    " mitigations=off audit=0 apparmor=0 selinux=0 cryptomgr.notests nokaslr rcupdate.rcu_expedited=1"
    " no_timer_check panic=-1"
)

Line = dict[str, Any]


def command(*words: str | Path, **options: Any) -> None:
    """Runs a command that must succeed. Raises RuntimeError with its last lines."""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-30:]))


def installed(machine: Path, checkout: Path, work: Path, port: int) -> Path:
    """A disk with gated on it, made of the machine's without a boot. Its API is at the host's ``port``."""
    root, disk = work / "root", work / "disk.img"
    root.mkdir()
    command("debugfs", "-R", f"rdump / {root}", machine / "disk.img")
    luggage = root / "srv/luggage"
    luggage.mkdir()
    for name in LUGGAGE:
        shutil.copy(HERE / "guest" / name, luggage)
    for part in ("systemd", "config"):
        shutil.copytree(checkout / part, luggage / part)
    command(
        "/usr/bin/python3", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", luggage, checkout
    )
    command("mount", "-t", "proc", "proc", root / "proc")
    try:
        install = f"cd /srv/luggage && ./cut_install.sh {port}"
        command("chroot", root, "/bin/sh", "-c", install)
    finally:
        command("umount", root / "proc")
    command("truncate", "-s", f"{DISK_MB}M", disk)
    command("mke2fs", "-q", "-t", "ext4", "-d", root, disk)
    shutil.rmtree(root)
    return disk


class Guest:
    """One boot of the machine, from power on to power cut."""

    def __init__(self, machine: Path, disk: Path, work: Path, hear: Callable[[Line], None]) -> None:
        """``hear`` gets each line that the guest says, on a thread of its own."""
        self._left = work / "left.img"
        self._left.unlink(missing_ok=True)
        with self._left.open("wb") as left:
            left.truncate(LEFT_BYTES)
        address = work / "hands.sock"
        address.unlink(missing_ok=True)
        words = [
            # One processor: with two, QEMU 7.2 trips over code that the kernel patches under the other one.
            *(HERE / "boot.sh", machine, disk, "-append", KERNEL, "-smp", "1"),
            # Without the card's own ROM, which would look for a server to boot from.
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-drive", f"file={self._left},if=virtio,format=raw", "-serial", "mon:stdio"),
            *("-chardev", f"socket,id=hands,path={address},server=on,wait=on", "-serial", "chardev:hands"),
        ]
        self.on_since = time.monotonic()
        with (work / "console.log").open("wb") as console:
            self._qemu = subprocess.Popen(words, stdout=console, stderr=console)
        self._channel = self._connected(address)
        self.is_cut = threading.Event()
        self._heard: list[Line] = []
        self._news = threading.Condition()
        self._hear = hear
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _connected(self, address: Path) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        while True:
            try:
                channel.connect(str(address))
            except OSError:
                if self._qemu.poll() is not None:
                    raise RuntimeError("QEMU ended at once; see console.log") from None
                time.sleep(0.05)
            else:
                return channel

    def _listen(self) -> None:
        # An order that QEMU had not read when it was killed ends the talk with an error, after all it said.
        with self._channel.makefile("rb") as lines, contextlib.suppress(ConnectionResetError):
            for text in lines:
                if not text.endswith(b"\n"):
                    break  # the power went in the middle of it
                line = json.loads(text) | {"at": time.monotonic()}
                self._hear(line)
                with self._news:
                    self._heard.append(line)
                    self._news.notify_all()
        self.is_cut.set()
        with self._news:
            self._news.notify_all()

    def tell(self, *words: object) -> None:
        """One order to the guest; nothing, if its power is cut."""
        try:
            self._channel.sendall(json.dumps(words).encode() + b"\n")
        except OSError:
            self.is_cut.set()

    def mark(self) -> int:
        """A place in what was heard, to wait from."""
        return len(self._heard)

    def wait(self, what: Callable[[Line], bool], within: float, since: int = 0) -> Line | None:
        """The first such line heard since ``since``; None if the power was cut, or the time is over."""
        deadline = time.monotonic() + within
        with self._news:
            while True:
                for line in self._heard[since:]:
                    if what(line):
                        return line
                if self.is_cut.is_set() or not self._news.wait(max(0, deadline - time.monotonic())):
                    return None

    def ask(self, question: str, within: float = 60, **arguments: object) -> list[Line]:
        """What the running gate answers to a command, with the line that ends it; [] if none came."""
        since = self.mark()
        self.tell("ask", question, arguments)

        def ends(line: Line) -> bool:
            return line.get("command") == question and bool(line["line"].keys() & {"done", "error"})

        if self.wait(ends, within, since) is None:
            return []
        return [line["line"] for line in self._heard[since:] if line.get("command") == question]

    def left(self, folder: Path) -> Path:
        """Unpacks what was taken out of the guest; returns the folder with the two databases."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # Not tarfile: Debian 12's Python 3.11.2 lacks its filters. What follows the archive is blank.
        subprocess.run(["tar", "-xf", self._left, "-C", folder], check=True)
        return folder / "gated"

    def cut(self) -> None:
        """Cuts the power."""
        self._qemu.kill()
        self.is_cut.set()

    def close(self) -> None:
        """Cuts the power, if it is on, and waits until all that was said has been heard."""
        self.cut()
        self._qemu.wait()
        self._listener.join(timeout=10)
        self._channel.close()


class Server(Simulator):
    """The API, each of whose requests may be seen, and kept from being carried out.

    ``seen`` gets the endpoint ("full" and "delta" for the barcodes), and whether it is done; if it says no
    before that, nothing is done or answered.
    """

    def __init__(self, event: Event, seen: Callable[[str, bool], bool]) -> None:
        super().__init__(event)
        self._seen = seen

    def respond(self, request: Request) -> tuple[Answer, Planned | None]:
        name = str(route(request)[0])
        if name == Endpoint.BARCODES:
            name = "delta" if "X-COMPARE-TIMESTAMP" in request.headers else "full"
        if not self._seen(name, False):
            raise ConnectionAbortedError("nobody is there any more")
        answer = super().respond(request)
        self._seen(name, True)
        return answer
