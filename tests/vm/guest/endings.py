"""Ends the gate over and over, in every way there is, at random moments, and lets it come back.

It judges nothing. Of each cycle it tells how and when gated was ended, what had caused a release before that,
if anything, every edge of every output, and when all were safe again.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pi import KEYBOARD, SERIAL, Journal, Outputs, Scanner, Unit, run, wait_for

PINS = {"entry": 17, "exit": 22}
ENDS = ("stop", "restart", "kill", "crash", "oom", "hang")
MOMENTS = ("starting", "ready", "entry", "exit")  # the last two: while that lane's barrier is released
PULSE_S = 2.0  # in gated.toml
START_S = 12.0  # longer than a start takes, emulated
SEED = 20261124

Fact = dict[str, Any]


def plan(cycles: int) -> list[tuple[str, str]]:
    """How and when gated ends in each cycle: each way in a pulse, two in a start, then anything goes."""
    chance = random.Random(SEED)
    first = [(end, chance.choice(MOMENTS[2:])) for end in ENDS]
    first += [("kill", "starting"), ("stop", "starting")]
    # A start that hangs is noticed by systemd only after its own time-out of 90 s.
    anything = [(end, moment) for end in ENDS for moment in MOMENTS if (end, moment) != ("hang", "starting")]
    return [*first, *(chance.choice(anything) for _ in range(cycles))][:cycles]


class Endings:
    """The cycles, on the hands and eyes of the scenario."""

    def __init__(
        self, outputs: Outputs, scanner: Scanner, journal: Journal, unit: Unit, tickets: Iterator[str]
    ) -> None:
        self._outputs = outputs
        self._scanner = scanner
        self._journal = journal
        self._unit = unit
        self._tickets = tickets
        self._chance = random.Random(SEED)

    def begin(self) -> Fact:
        """A watchdog of 5 s, so that those that hang don't take all day."""
        override = Path("/run/systemd/system/gated.service.d/watchdog.conf")
        override.parent.mkdir(parents=True, exist_ok=True)
        override.write_text("[Service]\nWatchdogSec=5\n")
        run("systemctl", "daemon-reload")
        before = int(self._unit.show("MainPID"))
        self._unit.do("restart")
        self._wait_until_back(before)
        return {}

    def cycle(self, end: str, moment: str) -> Fact:
        """One end, and the start after it. Times are seconds from the end."""
        cycle_began = time.monotonic()
        process = int(self._unit.show("MainPID"))
        caused = None
        if moment == "starting":
            run("systemctl", "--no-block", "restart", "gated")
            time.sleep(self._chance.uniform(0, START_S))
            process = int(self._unit.show("MainPID"))
        elif moment == "ready":
            time.sleep(self._chance.uniform(0, 2))
        else:
            caused = self._release(moment)
            time.sleep(self._chance.uniform(0, PULSE_S * 0.6))
        ended = time.monotonic()
        fact = {"end": end, "moment": moment} | self._end(end, process)
        self._wait_until_back(process)
        return fact | {
            "caused_at": None if caused is None else round(caused - ended, 3),
            "safe_at": self._safe_at(ended),
            "back_at": round(time.monotonic() - ended, 1),
            "edges": [
                (round(at - ended, 3), pin, on) for at, pin, on in self._outputs.edges(since=cycle_began)
            ],
            "malformed": self._journal.since(cycle_began, "malformed"),
            "made_inputs": self._outputs.made_inputs,
        }

    def _release(self, lane: str) -> float:
        """A guest with a ticket, or on the way out; returns when the barcode was read."""
        ticket = next(self._tickets)
        at = self._scanner.type(ticket) if lane == "entry" else self._scanner.send(ticket)
        wait_for("release", lambda: self._outputs.released(PINS[lane], since=at), within=15)
        return at

    def _end(self, end: str, process: int) -> Fact:
        if end == "restart":
            run("systemctl", "--no-block", "restart", "gated")
        elif end == "stop":
            self._unit.do("stop")
            time.sleep(1)
            energised = self._outputs.energised()
            run("systemctl", "--no-block", "start", "gated")
            return {"energised": energised}
        elif process == 0:
            return {"nothing": True}  # it waits for its next start
        elif end == "oom":
            Path(f"/proc/{process}/oom_score_adj").write_text("1000")
            Path("/proc/sysrq-trigger").write_text("f")
        else:
            number = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "hang": signal.SIGSTOP}[end]
            os.kill(process, number)
        return {}

    def _safe_at(self, ended: float) -> float | None:
        at = self._outputs.safe_since(ended)
        return None if at is None else round(at - ended, 3)

    def _wait_until_back(self, before: int) -> None:
        """Until another process than that one is ready and reads both scanners.

        One that is told to stop while it starts gets ready first: "ready" in the log is not enough.
        """
        wait_for("gated", lambda: self._unit.is_active(unlike=before), within=120)
        wait_for("scanners", lambda: self._unit.holds(KEYBOARD) and self._unit.holds(SERIAL), within=30)
