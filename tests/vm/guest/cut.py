"""The hands and eyes, in the guest, of a host that cuts its power: lines of JSON on the second serial port.

It decides nothing and keeps nothing: what is to be known after a cut is on the host by then.

- A level set on a line goes out as soon as the kernel's trace tells it, before anything else is done.
- ``scan``, ``ask``, ``take`` and ``step`` come in; what came of them goes out.
"""

import fcntl
import json
import os
import re
import socket
import struct
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pi import CHIP, TRACE, Scanner, run

PORT = Path("/dev/ttyS1")
TAKEN = Path("/dev/vdb")
CONTROL = Path("/run/gated/control.sock")
WAL = Path("/var/lib/gated/journal.db-wal")
LEVEL = re.compile(r"gpio_value: (\d+) set +(\d)")

# linux/sockios.h and linux/if.h
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, IFF_UP = 0x8916, 0x891C, 0x8914, 1

port = os.open(PORT, os.O_RDWR | os.O_NOCTTY)
tty.setraw(port)
speaking = threading.Lock()
scanner = Scanner()


def say(what: str, **detail: object) -> None:
    """One line to the host, whole."""
    line = json.dumps({"what": what} | detail).encode() + b"\n"
    with speaking:
        while line:
            line = line[os.write(port, line) :]


def follow_levels() -> None:
    base = int(next(Path("/sys/class/gpio").glob("gpiochip*/base")).read_text())
    with TRACE.open() as trace:
        for line in trace:
            if found := LEVEL.search(line):
                say("level", pin=int(found[1]) - base, level=int(found[2]))


def join_the_network() -> None:
    """QEMU's user network, whose one guest is 10.0.2.15."""
    run("modprobe", "virtio_net")
    while not Path("/sys/class/net/eth0").exists():
        time.sleep(0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, address in ((SIOCSIFADDR, "10.0.2.15"), (SIOCSIFNETMASK, "255.255.255.0")):
            named = struct.pack("16sH2x4s8x", b"eth0", socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(any_socket, request, named)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"eth0", IFF_UP))


def ask(command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The running gate's answers, and the line that ends them. Raises OSError, ValueError if cut short."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(CONTROL))
        channel.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        with channel.makefile() as lines:
            for line in lines:
                yield json.loads(line)


def tell_when_ready() -> None:
    """Says how the gate came up by itself, once both of its scanners are read."""
    while True:
        try:
            [status, _] = ask("status", {})
        except (OSError, ValueError):
            time.sleep(0.3)
            continue
        scanners = [lane["scanners"] for lane in status["answer"]["lanes"]]
        if all(lane and all(each["state"] == "reading" for each in lane.values()) for lane in scanners):
            break
        time.sleep(0.3)
    restarts = run("systemctl", "show", "--value", "--property", "NRestarts", "gated").stdout
    say("ready", restarts=int(restarts), status=status["answer"])


def pass_on(command: str, arguments: dict[str, Any]) -> None:
    """Asks the gate; each of its lines goes to the host."""
    try:
        for line in ask(command, arguments):
            say("answer", command=command, line=line)
    except (OSError, ValueError) as error:
        say("answer", command=command, line={"error": str(error)})


def take() -> None:
    """The running gate's journal, to the second disk.

    Its WAL comes first, so that a checkpoint in between loses nothing. The files are copied as they are: no
    other process may open the database.
    """
    files = "gated/journal.db-wal gated/journal.db"
    run("sh", "-c", f"tar -C /var/lib -cf - {files} | dd of={TAKEN} bs=1M iflag=fullblock conv=fsync")
    say("taken")


def step(number: int, script: str) -> None:
    """A release of gated with one more step of the journal's schema: laid down durably, then started."""
    [schema] = Path("/opt/gated/lib").glob("python3*/site-packages/gated/store/schema")
    path = schema / f"journal-{number}.sql"
    path.write_text(script)
    os.sync()
    threading.Thread(target=watch_the_wal, daemon=True).start()
    done = run("systemctl", "restart", "gated")
    say("stepped", status=done.returncode)


def watch_the_wal() -> None:
    """Says when the journal's WAL grows after it was away: a migration is being committed."""
    while WAL.exists():
        time.sleep(0.01)
    say("stopped")
    while not (WAL.exists() and WAL.stat().st_size):
        time.sleep(0.002)
    say("migrating")


def obey(line: bytes) -> None:
    match json.loads(line):
        case ["scan", "entry", barcode]:
            scanner.send(barcode)
            say("sent")
        case ["scan", "exit", barcode]:
            scanner.type(barcode)
            say("typed")
        case ["ask", command, arguments]:
            threading.Thread(target=pass_on, args=(command, arguments), daemon=True).start()
        case ["take"]:
            take()
        case ["step", number, script]:
            threading.Thread(target=step, args=(number, script), daemon=True).start()


say("up", pins=len(list(CHIP.glob("gpiochip*/sim_gpio*"))))
threading.Thread(target=follow_levels, daemon=True).start()
threading.Thread(target=tell_when_ready, daemon=True).start()
join_the_network()
with open(port, "rb", buffering=0, closefd=False) as orders:
    for order in iter(orders.readline, b""):
        obey(order)
