"""Inside the virtual Pi: floor and gate in turns on the same scanners, disk and lines, in one boot.

A time begins when the last key, or the barcode, is written to the scanner's own end, and ends when the
kernel's trace says that the line was raised: neither is told by the program under test. Prints one JSON
object a round.
"""

import json
import re
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import Empty, Queue

from pi import (
    KEYBOARD,
    SERIAL,
    TRACE,
    Fact,
    Journal,
    Scanner,
    Unit,
    pull,
    servers,
    set_up,
    tell,
    wait_for,
)

ROUNDS, SCANS = json.loads(Path("sizes").read_text())
WARM_UP = 5  # scans of a round that are not counted
EVERY_S = 0.4  # a scan, on both sides: typing a barcode takes 0.1 s, and going through 0.1 s more
SETTLED_S = 0.06  # gated takes a contact for settled after 20 ms, of an emulated processor
LINES = {"hid": 17, "serial": 23}  # vm_gated.toml's, as the contacts are
CONTACTS = {"hid": 24, "serial": 25}
DEVICES = {"hid": KEYBOARD, "serial": SERIAL}
FLOOR = Path("/run/floor")
PATIENCE_S = 60.0

scanner, unit, journal = Scanner(), Unit("gated"), Journal("gated")
fresh = (f"GATED{number:06}" for number in count(1))


class Lines:
    """Each level that is set on a line, as the kernel's trace tells it: monotonic seconds."""

    def __init__(self) -> None:
        self._set: dict[int, Queue[tuple[float, int]]] = {line: Queue() for line in LINES.values()}
        self._base = int(next(Path("/sys/class/gpio").glob("gpiochip*/base")).read_text())
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        pattern = re.compile(r"(\d+\.\d+): gpio_value: (\d+) set +(\d)")
        with TRACE.open() as trace:
            for text in trace:
                if (found := pattern.search(text)) and (told := self._set.get(int(found[2]) - self._base)):
                    told.put((float(found[1]), int(found[3])))

    def wait(self, line: int, level: int, since: float) -> float:
        """When it was set to that level. Raises queue.Empty if it never is."""
        while True:
            at, driven = self._set[line].get(timeout=PATIENCE_S)
            if driven == level and at >= since:
                return at


lines = Lines()


def install() -> Fact:
    """gated as on a Pi, with all its tickets and no server; and the floor."""
    fact = set_up(ROUNDS * 2 * (SCANS + WARM_UP))
    if fact["installed"] or fact["started"] or fact["synced"]:
        raise RuntimeError(fact["said"])
    unit.do("stop")
    servers.pop().stop()
    FLOOR.write_bytes(b64decode(Path("vm_floor").read_text()))
    FLOOR.chmod(0o755)
    return fact


def measure() -> Fact:
    """One round: milliseconds, by scanner and side."""
    took: Fact = {}
    for kind in LINES:
        with floor(kind):
            took[f"{kind} floor"] = scans(kind, guests=False)
    with gate():
        for kind in LINES:
            took[f"{kind} gated"] = scans(kind, guests=True)
    return took


@contextmanager
def floor(kind: str) -> Iterator[None]:
    """The C program reads that scanner."""
    command = [str(FLOOR), kind, str(DEVICES[kind]), "/var/lib/floor", str(LINES[kind])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        if running.stdout.readline() != "ready\n":
            raise RuntimeError("the floor has ended")
        try:
            yield
        finally:
            running.kill()


@contextmanager
def gate() -> Iterator[None]:
    """gated reads both."""
    unit.do("start")
    try:
        wait_for("scanners", lambda: all(map(unit.holds, DEVICES.values())), within=PATIENCE_S)
        yield
    finally:
        unit.do("stop")


def scans(kind: str, *, guests: bool) -> list[float]:
    """So many scans, one after another, without the first few and those that came to nothing."""
    took = [scan(kind, guests=guests) for _ in range(WARM_UP + SCANS)]
    return [each for each in took[WARM_UP:] if each is not None]


def scan(kind: str, *, guests: bool) -> float | None:
    """Milliseconds from the terminator to the line; ends when the other side is ready for the next.

    ``guests`` go through, with tickets of their own. None if the line was not raised: a processor that stands
    still for two seconds between two keys makes a scanner of half a barcode.
    """
    begun, barcode = time.monotonic(), next(fresh) if guests else "GATED000000"
    at = scanner.type(barcode) if kind == "hid" else scanner.send(barcode)
    try:
        raised = lines.wait(LINES[kind], 1, at)
    except Empty:
        return None
    if guests:
        pull(CONTACTS[kind], "down")
    lines.wait(LINES[kind], 0, raised)
    if guests:
        pull(CONTACTS[kind], "up")
    time.sleep(max(SETTLED_S, begun + EVERY_S - time.monotonic()))
    return round((raised - at) * 1000, 3)


for contact in CONTACTS.values():
    pull(contact, "up")
tell("install", install, 1200, journal)
for number in range(1, ROUNDS + 1):
    tell(f"round {number}", measure, 1800, journal)
