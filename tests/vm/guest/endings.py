"""Ends the gate over and over, in every way there is, at random moments, and lets it come back.

It judges nothing. Of each cycle it tells how and when gated was ended, what had caused a release before that,
if anything, every edge of every output, and what a judge needs to know whether a gated was there to cause it.
Prints one JSON object a cycle. Times are seconds from the end.
"""

import itertools
import os
import random
import select
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pi import OUTPUTS, RELEASES, Fact, Journal, Outputs, Scanner, Unit, run, set_up, tell, wait_for

ENDS = ("stop", "restart", "kill", "crash", "oom", "hang")
LANES = tuple(RELEASES)
MOMENTS = ("starting", "ready", *LANES)  # the last three: while that lane's barrier is released
RELEASED_S = 2.0  # pulse_ms and grant_ms in gated.toml


def plan(seed: int) -> Iterator[tuple[str, str]]:
    """How and when gated ends: at first each way in a release, and two in a start; soon every pair."""
    chance = random.Random(seed)
    first = [(end, chance.choice(LANES)) for end in ENDS] + [("kill", "starting"), ("stop", "starting")]
    everything = list(itertools.product(ENDS, MOMENTS))
    everything.remove(("hang", "starting"))  # ends with a time-out that says nothing of outputs
    yield from first
    rest = [each for each in everything if each not in first]
    yield from chance.sample(rest, len(rest))
    while True:
        yield from chance.sample(everything, len(everything))


class Endings:
    """The cycles, and the hands and eyes for them."""

    def __init__(self, seed: int) -> None:
        self._outputs = Outputs(OUTPUTS)
        self._scanner = Scanner()
        self.journal = Journal("gated")
        self._unit = Unit("gated")
        self._tickets = (f"GATED{number:06}" for number in itertools.count(1))
        self._chance = random.Random(seed)
        self._start_s = 10.0  # how long it last took from an end to being back

    def cycle(self, end: str, moment: str) -> Fact:
        """One end, and the start after it."""
        cycle_began = time.monotonic()
        caused, process = None, int(self._unit.show("MainPID"))
        if moment == "starting":
            run("systemctl", "--no-block", "restart", "gated")
            time.sleep(self._chance.uniform(0, self._start_s))
            process = int(self._unit.show("MainPID"))
        elif moment == "ready":
            time.sleep(self._chance.uniform(0, 2))
        else:
            caused = self._release(moment)
            time.sleep(self._chance.uniform(0, RELEASED_S * 0.6))
        ended = time.monotonic()
        gone = self._end(end, process)
        back = self._wait_until_back(process, ended)
        self._start_s = back - (gone or ended)

        def after(at: float | None) -> float | None:
            return None if at is None else round(at - ended, 3)

        return {
            "end": end,
            "moment": moment,
            "nothing": process == 0,  # it was not there: before its start, or between two
            "caused_at": after(caused),
            "gone_at": after(gone),
            "safe_at": after(self._outputs.safe_since(ended)),
            "claims_at": [after(each["at"]) for each in self._claims(cycle_began)],
            "back_at": after(back),
            "edges": [(after(at), pin, on) for at, pin, on in self._outputs.edges(since=cycle_began)],
            "malformed": self.journal.since(cycle_began, "malformed"),
            "made_inputs": self._outputs.made_inputs,
        }

    def _release(self, lane: str) -> float:
        """A guest with a ticket, or on the way out; returns when the barcode was read."""
        at = self._scanner.read(lane, next(self._tickets))
        wait_for("release", lambda: self._outputs.released(RELEASES[lane], since=at), within=30)
        return at

    def _end(self, end: str, process: int) -> float | None:
        """Ends gated; returns when its process was gone, None if it was not there."""
        try:
            handle = os.pidfd_open(process) if process else None
        except ProcessLookupError:  # the end before this one has only just come to it
            process, handle = 0, None
        if end in ("stop", "restart"):
            run("systemctl", "--no-block", end, "gated")
        elif process == 0:
            return None  # it waits for its next start
        elif end == "oom":
            Path(f"/proc/{process}/oom_score_adj").write_text("1000")
            Path("/proc/sysrq-trigger").write_text("f")
        else:
            number = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "hang": signal.SIGSTOP}[end]
            os.kill(process, number)
        gone = None
        if handle is not None:
            select.select([handle], [], [], 120)
            gone = time.monotonic()
            os.close(handle)
        if end == "stop":
            self._unit.do("stop")
            time.sleep(1)  # nothing happens at a stopped gate
            run("systemctl", "--no-block", "start", "gated")
        return gone

    def _claims(self, since: float) -> list[Fact]:
        """When a gated was about to claim its outputs: the warning that it gives just before."""
        return self.journal.since(since, "outputs_outlive_gated")

    def _wait_until_back(self, before: int, since: float) -> float:
        """Until another process than that one is ready and reads all scanners; returns when it was."""

        def back() -> float | None:
            ready = [each for each in self.journal.since(since, "ready") if each["pid"] != before]
            if not ready:
                return None
            found = self.journal.since(since, "scanner_found")
            lanes = {each["lane"]: each["at"] for each in found if each["pid"] == ready[-1]["pid"]}
            return max([ready[-1]["at"], *lanes.values()]) if len(lanes) == len(LANES) else None

        return wait_for("gated", back, within=240)


endings = Endings(int(Path("seed").read_text()))
cycles = int(Path("cycles").read_text())
tell("begin", lambda: set_up(cycles, "WatchdogSec=10"), limit=900)
for number, (end, moment) in enumerate(itertools.islice(plan(int(Path("seed").read_text())), cycles)):
    tell(f"ending {number}", partial(endings.cycle, end, moment), limit=300, journal=endings.journal)
