"""A soak: a real gate, several lanes, scans as fast as they take them, and everything going wrong.

Random faults of the server, a server that is away, scanners pulled out, and the wall clock stepped by hours
and decades. What is asked of the gate is that none of it shows: every verdict is the right one, every scan is
at the server, with its true time, and the process does not grow.
"""

import contextlib
import json
import queue
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from gated.api.simulator import Fault, Simulator, made_up_event
from gated.control import SOCKET, ask
from gated.errors import ControlError
from tests.gate import Line

ENTRIES, EXITS = ("in 1", "in 2", "in 3"), ("out",)
WITHIN = 60.0  # seconds; a bound for a busy machine, not what is expected
HOURS, YEARS = 6 * 3600.0, 50 * 365 * 86400.0

# Tickets that get the same verdict at any time, if the time is what it should be.
ALWAYS = {
    "GATED-CANCELED": 45,
    "GATED-NOTALLOWED": 45,
    "GATED-EARLY": 45,
    "GATED-EXPIRED": 60,
    "GATED-OVER": 60,
}
ENDPOINTS = ("any", "login", "services", "barcodes", "checkin", "upload", "upload")
# A login that is refused, as these say, is not tried again for minutes; they are kept for the other calls.
REFUSALS = {Fault.STATUS_400, Fault.STATUS_401, Fault.STATUS_403, Fault.STATUS_422}


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment."""

    scans: int
    rss_kb: int
    files: int
    threads: int


@dataclass(slots=True)
class Report:
    """What came of a soak."""

    scans: int = 0
    seconds: float = 0.0
    faults: int = 0
    outages: int = 0
    steps: int = 0
    unplugged: int = 0
    marked: int = 0
    samples: list[Sample] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    verdicts: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    """How often each barcode got each code."""
    wrong: list[str] = field(default_factory=list)

    def tenth(self, number: int) -> tuple[list[Sample], list[float]]:
        """Samples and times of the tenth of that number, from 1."""
        low, high = (number - 1) * self.scans // 10, number * self.scans // 10
        return [each for each in self.samples if low < each.scans <= high], self.took_ms[low:high]

    def figures(self) -> Iterator[str]:
        """For people."""
        yield f"{self.scans} scans in {self.seconds:.0f} s, {self.scans / self.seconds:.0f} a second"
        yield f"faults {self.faults}, outages {self.outages}, clock steps {self.steps}, scanners pulled out"
        yield f"{self.unplugged}; sent twice, marked: {self.marked}"
        for number in (1, 2, 5, 10):
            samples, took = self.tenth(number)
            yield (
                f"tenth {number}: rss {max(each.rss_kb for each in samples)} kB,"
                f" files {max(each.files for each in samples)},"
                f" threads {max(each.threads for each in samples)},"
                f" p50 {p(took, 50):.1f} ms, p99 {p(took, 99):.1f} ms"
            )


def p(values: list[float], percent: int) -> float:
    """A percentile."""
    return quantiles(values, n=100)[percent - 1]


class Gate:
    """The gate's process and its scanners."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.lines = {lane: Line(folder / lane.replace(" ", "-")) for lane in (*ENTRIES, *EXITS)}
        self.heard: dict[str, queue.Queue[dict[str, Any]]] = {lane: queue.Queue() for lane in self.lines}
        self.others: queue.Queue[str] = queue.Queue()
        self.latest: deque[str] = deque(maxlen=200)
        config = folder / "gated.toml"
        lanes = "".join(self._lane(number, lane) for number, lane in enumerate(self.lines))
        config.write_text(
            f"""
            [gate]
            name = "Soaked gate"
            state_dir = "{folder}/state"
            [api]
            base_url = "{url}"
            username = "gate"
            device_info = "DEVICE_ID:SOAK"
            [pins]
            factory = "mock"
            {lanes}
            """
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.driven", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("wb"),
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _lane(self, number: int, lane: str) -> str:
        return f"""
            [[lanes]]
            name = "{lane}"
            direction = "{"entry" if lane in ENTRIES else "exit"}"
            scanners = [{{ kind = "serial", device = "{self.lines[lane].link}", repeat_gap_ms = 50 }}]
            release = {{ pin = {number + 4}, when_off = "free", profile = "hold", grant_ms = 30000 }}
            passage = {{ done_pin = {number + 10} }}
            lamps = {{ green = {number + 16}, red = {number + 22} }}
            """

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = json.loads(raw)
            self.latest.append(raw.decode())
            if line["event"] in ("scan", "passage", "scanner_lost", "scanner_found"):
                self.heard[line["lane"]].put(line)
            elif line["event"] in ("ready", "dead", "job_failed", "lane_failed", "decision_failed"):
                self.others.put(raw.decode())

    def command(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def wait(self, lane: str, *events: str) -> dict[str, Any]:
        """The next line of a lane about one of these events."""
        while True:
            try:
                line = self.heard[lane].get(timeout=WITHIN)
            except queue.Empty:
                raise queue.Empty(events) from None
            if line["event"] in events and line.get("reason") != "malformed":
                return line

    def ask(self, command: str, **arguments: object) -> list[dict[str, Any]]:
        return list(ask(self.folder / "state" / SOCKET, command, **arguments))

    def wait_until(self, what: str) -> None:
        """Until ``what``, a Python expression over ``status``, is true."""
        until = time.monotonic() + 4 * WITHIN
        while True:
            with contextlib.suppress(ControlError):
                status = self.ask("status")[0]
                if eval(what, {"status": status}):
                    return
            assert time.monotonic() < until, f"never {what}: {self.stderr()}"
            time.sleep(0.2)

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def sample(self, scans: int) -> Sample:
        process = Path("/proc", str(self.process.pid))
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        files = len(list((process / "fd").iterdir()))
        return Sample(scans, int(status["VmRSS"].split()[0]), files, int(status["Threads"]))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(WITHIN)


class Soak:
    """One run, of so many scans."""

    def __init__(self, folder: Path, scans: int, seed: int) -> None:
        self.report = Report()
        self._random = random.Random(seed)
        self._scans = scans
        self._began = time.time()
        self._server = Simulator(made_up_event(extra=scans))
        self._server.event.service.sync_interval = 15
        self._server.start()
        self._gate = Gate(folder, self._server.url)
        self._fresh = iter(range(1, scans + 1))
        self._used: list[str] = []
        self._shown: dict[str, dict[str, float]] = {lane: {} for lane in self._gate.lines}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self) -> Report:
        """Soaks the gate; what was wrong is in the report."""
        self._gate.command(f"step {-HOURS * 1000}")  # wrong at boot
        self._gate.wait_until("status['store']['complete']")
        self._gate.wait_until("all(lane['shown'] == 'ready' for lane in status['lanes'])")
        began = time.monotonic()
        troubles = [threading.Thread(target=each) for each in (self._break_server, self._step_clock)]
        guests = [
            threading.Thread(target=self._guests, args=(lane, random.Random(self._random.random())))
            for lane in self._gate.lines
        ]
        for thread in (*troubles, *guests):
            thread.start()
        while any(thread.is_alive() for thread in guests):
            self.report.samples.append(self._gate.sample(self.report.scans))
            time.sleep(0.2)
        self.report.seconds = time.monotonic() - began
        self._over.set()
        for thread in troubles:
            thread.join()
        self._settle()
        self._check()
        return self.report

    def _guests(self, lane: str, dice: random.Random) -> None:
        try:
            while self._take_turn():
                self._guest(lane, dice)
                if dice.random() < 1 / 500:
                    self._pull_out(lane)
        except queue.Empty as error:
            said = "".join(line for line in self._gate.latest if f'"{lane}"' in line)
            self.report.wrong.append(f"{lane} fell silent: {error.args}\n{said}{self._gate.stderr()}")

    def _take_turn(self) -> bool:
        with self._lock:
            if self.report.scans >= self._scans or self.report.wrong:
                return False
            self.report.scans += 1
            return True

    def _guest(self, lane: str, dice: random.Random) -> None:
        if lane in ENTRIES and dice.random() < 0.02:  # may be told or not, and holds up nothing
            self._gate.lines[lane].send(b"\x1b[2J\r")
        barcode, codes = self._barcode(lane, dice)
        # Else it would be taken for a ticket held still.
        while time.monotonic() - self._shown[lane].get(barcode, -1.0) < 0.5:
            barcode, codes = self._barcode(lane, dice)
        self._gate.lines[lane].send(barcode.encode() + b"\r")
        self._shown[lane][barcode] = float("inf")
        line = self._gate.wait(lane, "scan")
        self._shown[lane][barcode] = time.monotonic()
        with self._lock:
            self.report.took_ms.append(line["took_ms"])
            self.report.verdicts[barcode, line["code"]] += 1
            if line["code"] not in codes:
                self.report.wrong.append(f"{lane}: {barcode}: {line}")
            if line["verdict"] == "ADMIT" and lane in ENTRIES:
                self._used.append(barcode)
        if lane in EXITS:
            time.sleep(0.02)  # it lets go before it decides, and perhaps the guest has gone by then
        elif line["verdict"] == "ADMIT":
            self._gate.wait(lane, "passage")

    def _barcode(self, lane: str, dice: random.Random) -> tuple[str, set[int | None]]:
        """What a guest shows, and the codes that may come of it."""
        kind = dice.random()
        with self._lock:
            old = dice.choice(self._used[:-50]) if len(self._used) > 100 else None
            if lane in EXITS:
                return (old, {200, 210}) if old and kind < 0.9 else (f"NOBODY-{dice.getrandbits(40)}", {230})
            if kind < 0.7 or old is None:
                return f"GATED{next(self._fresh):06}", {100}
        if kind < 0.9:
            return old, {50}
        if kind < 0.95:
            return f"NOBODY-{dice.getrandbits(40)}", {40, None}  # None: too many were asked about
        barcode = dice.choice(sorted(ALWAYS))
        return barcode, {ALWAYS[barcode]}

    def _pull_out(self, lane: str) -> None:
        line = self._gate.lines[lane]
        line.unplug()
        self._gate.wait(lane, "scanner_lost")
        line.plug_in()
        self._gate.wait(lane, "scanner_found")
        with self._lock:
            self.report.unplugged += 1

    def _break_server(self) -> None:
        dice = random.Random(self._random.random())
        while not self._over.wait(dice.uniform(0.5, 4)):
            if dice.random() < 0.05:
                self._server.stop()
                self._over.wait(dice.uniform(0.5, 5))
                self._server.start()
                self.report.outages += 1
            else:
                endpoint = dice.choice(ENDPOINTS)
                faults = set(Fault) - (REFUSALS if endpoint in ("any", "login") else set())
                self._server.faults.clear()  # else they pile up, and nothing ever goes well
                self._server.faults.add(
                    endpoint, dice.choice(sorted(faults)), dice.randint(1, 2), seconds=1.0
                )
                self.report.faults += 1
            if dice.random() < 0.02:
                self._server.revoke_tokens()
        self._server.faults.clear()

    def _step_clock(self) -> None:
        dice = random.Random(self._random.random())
        while not self._over.wait(dice.uniform(0.5, 4)):
            by = dice.choice([-HOURS, HOURS, -YEARS, YEARS, 0.0])
            self._gate.command(f"step {by}" if by else "sync")
            self.report.steps += 1

    def _settle(self) -> None:
        """The troubles are over: everything goes up."""
        until = time.monotonic() + 10 * WITHIN
        while True:
            self._gate.ask("outbox-retry")
            try:
                said: object = self._gate.ask("sync")
            except ControlError as error:
                said = error
            status = self._gate.ask("status")[0]
            outbox = status["store"]["outbox"]
            if not outbox["check_ins"] + outbox["others"]:
                return
            if time.monotonic() > until:
                rows = self._gate.ask("outbox")
                self.report.wrong.append(f"never went up: {rows[:2]} and so on; {said}; {status}")
                return
            time.sleep(1)

    def _check(self) -> None:
        report, ended = self.report, time.time()
        if (status := self._gate.stop()) != 0:
            report.wrong.append(f"exit status {status}: {self._gate.stderr()}")
        self._server.stop()
        with contextlib.closing(sqlite3.connect(self._gate.folder / "state" / "journal.db")) as journal:
            kept, report.marked = journal.execute(
                "SELECT count(*), sum(marked) FROM scan WHERE reason <> 'malformed'"
            ).fetchone()
        told = sum(report.verdicts.values())
        if kept != told:
            report.wrong.append(f"{told} verdicts, {kept} in the journal")
        there = Counter((each.scan.barcode_id, each.scan.status_code) for each in self._server.uploaded)
        wanted = Counter({key: count for key, count in report.verdicts.items() if key[1] is not None})
        report.wrong += [f"not at the server: {key}" for key in wanted - there]
        if (twice := (there - wanted).total()) > report.marked:
            report.wrong.append(f"{twice} too many at the server, {report.marked} marked")
        report.wrong += [
            f"wrong time: {each.scan}"
            for each in self._server.uploaded
            if not self._began - 3 <= each.scan.checked_in_time <= ended + 3
        ]
        while not self._gate.others.empty():
            said = self._gate.others.get()
            if '"ready"' not in said:
                report.wrong.append(said)
