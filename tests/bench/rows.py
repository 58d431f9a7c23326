"""The rows of the table, each a function of the bench."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.bench.figures import Row, Samples, Statistic, one, ratio
from tests.bench.gates import (
    NO_SERVER,
    READY_S,
    Gate,
    State,
    download,
    libraries,
    line,
    memory,
    path_floor,
    process,
    server,
)
from tests.bench.outbox import fill_outbox
from tests.bench.sender import Sender

SERVICE = "5d1f8f0e-6a0b-4d53-8d0c-000000000001"  # the simulator's
_EVERY_S = 0.07  # a scan: on both sides, since what has rested for longer is slower
_WARM_UP = 20  # scans that are not counted
_ROUND = 50  # scans in a turn


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    scans: int
    usual: int
    many: int
    few: int
    waiting: int
    """Scans in the outbox, to be uploaded."""
    downloads: int
    starts: int
    rest_s: float
    rounds: int
    """On the virtual Pi, which share the scans."""


# "A thousand" tickets are as many as are scanned, since each admits once.
FULL = Sizes(
    scans=1000,
    usual=200_000,
    many=1_000_000,
    few=1_100,
    waiting=100_000,
    downloads=2,
    starts=20,
    rest_s=30.0,
    rounds=20,
)
QUICK = Sizes(
    scans=100,
    usual=5_000,
    many=50_000,
    few=1_100,
    waiting=10_000,
    downloads=2,
    starts=3,
    rest_s=5.0,
    rounds=2,
)


@dataclass
class Bench:
    """The sizes, a folder on the disk that is measured, and the states that rows share."""

    sizes: Sizes
    folder: Path
    _states: dict[int, State] = field(default_factory=dict)

    def state(self, tickets: int) -> State:
        """The state of a gate that has downloaded so many tickets; made once."""
        if tickets not in self._states:
            with server(tickets) as url:
                self._states[tickets] = download(self.folder / f"state-{tickets}", tickets, url)
        return self._states[tickets]

    def offline_gate(self, stack: ExitStack, name: str, tickets: int, trace: Path | None = None) -> "Scans":
        """A gate with so many tickets and no network."""
        state = self.state(tickets)
        gate = Gate(state.copied(self.folder / name), NO_SERVER, observed=True, trace=trace)
        return Scans(stack.enter_context(gate).sender, state.barcodes())


class Scans:
    """Scans one ticket after another, and keeps how long each took."""

    def __init__(self, sender: Sender, barcodes: Iterator[str]) -> None:
        self._sender = sender
        self._barcodes = barcodes
        self._took: list[float] = []
        self.take(_WARM_UP)
        self._took.clear()

    def take(self, count: int) -> None:
        """So many scans, milliseconds each."""
        for barcode in islice(self._barcodes, count):
            begun = time.monotonic()
            self._took.append(self._sender.send(barcode))
            time.sleep(max(0.0, begun + _EVERY_S - time.monotonic()))

    @property
    def report(self) -> int:
        """The pipe on which the other side tells."""
        return self._sender.report

    @property
    def count(self) -> int:
        """How many were measured."""
        return len(self._took)

    @property
    def samples(self) -> Samples:
        return Samples(tuple(self._took))


def in_turns(count: int, *sides: Scans) -> None:
    """Each side has so many scans, in turns."""
    for done in range(0, count, _ROUND):
        for side in sides:
            side.take(min(_ROUND, count - done))


def scan_to_pin(bench: Bench) -> list[Row]:
    """From the terminator to the pin."""
    with ExitStack() as stack:
        ours = bench.offline_gate(stack, "path", bench.sizes.usual)
        bare = stack.enter_context(path_floor(bench.folder / "path-floor"))
        floor = Scans(bare, bench.state(bench.sizes.usual).barcodes())
        in_turns(bench.sizes.scans, floor, ours)
    metric = f"scan to pin, {bench.sizes.usual:,} tickets"
    least = "read, 4 KiB on disk, write"
    return [
        ratio(metric, "ms", least, floor.samples, ours.samples, 2.5),
        ratio(metric, "ms", least, floor.samples, ours.samples, 4.0, Statistic.P99),
    ]


def syncs(bench: Bench) -> list[Row]:
    """How often a scan makes the disk sync."""
    if shutil.which("strace") is None:
        raise RuntimeError("strace counts the syncs: sudo apt install strace")
    scans = max(20, bench.sizes.scans // 10)
    trace = bench.folder / "trace"
    with ExitStack() as stack:
        gate = bench.offline_gate(stack, "traced", bench.sizes.usual, trace)
        gate.take(scans)
    while "+++ exited" not in (traced := trace.read_text(errors="replace"))[-200:]:
        time.sleep(0.1)
    before, whole = _syncs_of(traced, gate.report)
    before, whole = before[_WARM_UP:], whole[_WARM_UP:-1]  # the last one's end is the gate's
    mean = sum(whole) / len(whole)
    least = "one commit"
    return [
        Row("syncs from terminator to pin", "", least, one(1), Samples(before), max(before), "max", 1),
        Row("syncs in all, passage and upkeep too", "", least, one(1), Samples(whole), mean, "mean", None),
    ]


def _syncs_of(trace: str, report: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Syncs of each scan until its pin has moved, and until the next scan comes."""
    what = re.compile(rf'(?P<come>GT\d*\\r"|T\d+\\r")|(?P<moved>write\({report}, )|(?P<sync> f(data)?sync\()')
    until_pin: list[float] = []
    until_next: list[float] = []
    pending = False
    for found in what.finditer(trace):
        if found["come"]:
            until_pin.append(0)
            until_next.append(0)
            pending = True
        elif found["moved"]:
            pending = False
        elif until_pin:
            until_next[-1] += 1
            until_pin[-1] += pending
    return tuple(until_pin), tuple(until_next)


def under_load(bench: Bench) -> list[Row]:
    """Scans while everything is downloaded and much is uploaded: as long as both go on, over and over."""
    sizes = bench.sizes
    loaded: list[float] = []
    state = bench.state(sizes.many)
    waits = state.copied(bench.folder / "waits")
    fill_outbox(waits / "state", islice(state.barcodes(), sizes.waiting))
    with ExitStack() as stack:
        idle = bench.offline_gate(stack, "idle", sizes.many)
        idle.take(sizes.scans // 2)
        while len(loaded) < sizes.scans:
            loaded += _while_loaded(bench, waits, sizes.scans - len(loaded))
        idle.take(sizes.scans - sizes.scans // 2)
    metric = f"scan to pin, {sizes.many:,} downloading, {sizes.waiting:,} uploading"
    least, samples = "the same at rest", Samples(tuple(loaded))
    return [ratio(metric, "ms", least, idle.samples, samples, 2.0, Statistic.P99)]


def _while_loaded(bench: Bench, waits: Path, most: int) -> tuple[float, ...]:
    """How long scans took at a gate that has come back, until its download or its upload ended."""
    sizes, folder = bench.sizes, bench.folder / "busy"
    shutil.copytree(waits, folder)
    rest = islice(bench.state(sizes.many).barcodes(), sizes.waiting, None)
    with server(sizes.many) as url, Gate(folder, url, observed=True) as gate:
        scans = Scans(gate.sender, rest)
        while not gate.said("full_download", "uploaded") and scans.count < most:
            scans.take(1)
    shutil.rmtree(folder)
    if not scans.count:
        raise RuntimeError("the load is over before a scan could be measured")
    return scans.samples.values


def flatness(bench: Bench) -> list[Row]:
    """Many tickets against few."""
    with ExitStack() as stack:
        few = bench.offline_gate(stack, "few", bench.sizes.few)
        many = bench.offline_gate(stack, "many", bench.sizes.many)
        in_turns(bench.sizes.scans, few, many)
    metric, least = f"scan to pin, {bench.sizes.many:,} tickets", f"{bench.sizes.few:,} tickets"
    return [ratio(metric, "ms", least, few.samples, many.samples, 1.3, Statistic.P99)]


def full_download(bench: Bench) -> list[Row]:
    """All tickets, from the server into the mirror."""
    many, folder = bench.sizes.many, bench.folder / "download"
    fetched, inserted, ours = [], [], []
    with server(many) as url:
        for _ in range(bench.sizes.downloads):
            fetched.append(_seconds("fetch", url, SERVICE))
            ours.append(download(folder, many, url).download_s)
            inserted.append(_seconds("insert", folder, folder / "state" / "mirror.db"))
            shutil.rmtree(folder)
    metric, took = f"download of {many:,} tickets", Samples(tuple(ours))
    floors = {"fetch, decode": Samples(tuple(fetched)), "executemany": Samples(tuple(inserted))}
    slower = max(floors, key=lambda name: floors[name].at(Statistic.P50))
    return [
        ratio(metric, "s", name, floor, took, 1.4 if name == slower else None)
        for name, floor in floors.items()
    ]


def _seconds(floor: str, *words: object) -> float:
    """What such a floor says that it took."""
    with process("-m", "tests.bench.floors", floor, *words) as run:
        return float(json.loads(line(run))["seconds"])


def start(bench: Bench) -> list[Row]:
    """From nothing to ready."""
    names = libraries()
    folder = bench.state(bench.sizes.many).copied(bench.folder / "start")
    floor, ours = [], []
    for _ in range(bench.sizes.starts):
        begun = time.perf_counter()
        with process("-m", "tests.bench.floors", "imports", *names) as run:
            line(run)
            floor.append(time.perf_counter() - begun)
        with Gate(folder, NO_SERVER) as gate:
            ours.append(gate.ready_s)
    metric = f"start to ready, {bench.sizes.many:,} tickets"
    return [
        ratio(metric, "s", "importing the same libraries", Samples(tuple(floor)), Samples(tuple(ours)), 2.0)
    ]


def footprint(bench: Bench) -> list[Row]:
    """Memory."""
    with process("-m", "tests.bench.floors", "imports", *libraries()) as run:
        line(run)
        imported = memory(run.pid, "VmRSS")
    many, few = bench.state(bench.sizes.many), bench.state(bench.sizes.many // 100)
    metric, resting = f"memory at rest, {many.tickets:,} tickets", one(many.resting_mb)
    more = many.peak_mb - few.peak_mb
    peak = f"memory's peak in a download of {many.tickets:,}"
    return [
        ratio(metric, "MB", "the same libraries imported", one(imported), resting, 1.3),
        Row(metric, "MB", "", None, resting, many.resting_mb, "MB", 80),
        Row(peak, "MB", f"of {few.tickets:,}", one(few.peak_mb), one(many.peak_mb), more, "MB more", 5),
    ]


def at_rest(bench: Bench) -> list[Row]:
    """Processor of a gate that has nothing to do."""
    tickets = bench.sizes.few
    with server(tickets) as url, Gate(bench.folder / "rest", url) as gate:
        gate.wait("full_download", READY_S)
        time.sleep(2.0)
        before = gate.processor_s()
        time.sleep(bench.sizes.rest_s)
        share = 100 * (gate.processor_s() - before) / bench.sizes.rest_s
    return [Row("processor at rest", "% of a core", "", None, one(share), share, "%", 1.0)]


def virtual_pi(bench: Bench) -> list[Row]:
    """From the terminator to the line, on the virtual Pi."""
    from tests.bench import vm  # pytest's, and a machine's: not for who measures something else

    return vm.measure(bench.folder, bench.sizes.rounds, bench.sizes.scans // bench.sizes.rounds)


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "path": scan_to_pin,
    "syncs": syncs,
    "load": under_load,
    "flat": flatness,
    "download": full_download,
    "start": start,
    "memory": footprint,
    "rest": at_rest,
}
# Measured only when asked for: it needs root, and boots a machine of its own for an hour.
APART: dict[str, Callable[[Bench], list[Row]]] = {"pi": virtual_pi}


def machine() -> str:
    """What was measured on."""
    model = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    name = re.search(r"Model name:\s*(.+)", model)
    return name[1] if name else "a machine without a name"
