"""Cuts the power of a virtual Pi again and again, each time in the middle of something.

A boot begins with what the cut before has left, and ends with a cut. In between guests come to both lanes as
fast as the gate takes them, and the gate uploads, downloads, migrates or purges. Each cut has a moment of its
own, by the run's seed: the number of a scan or of a request, before or after it was carried out, and some
milliseconds.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from gated.api.simulator import made_up_event
from gated.api.simulator.rules import Ticket
from tests.vm.power import Guest, Line, Server, installed
from tests.vm.truth import RELEASES, Truth

MOMENTS = ("upload", "full", "delta", "migration", "purge", "scans")  # in the first three there are scans too
TICKETS = 400
SOLD = 60  # tickets before each delta: more than a page
# Of guest/cut.toml.
LAMPS = {6: ("entry", "red"), 13: ("exit", "red"), 12: ("entry", "amber"), 19: ("exit", "amber")}
GRANT_S = 1.0
TRIES = 3
DENIED_S = 0.3  # between one who was turned away and the next
# Emulated, on a busy host.
READY_S, ANSWER_S, MOMENT_S, SETTLED_S = 600, 60, 300, 600


@dataclass(frozen=True, slots=True)
class Trigger:
    """Cut at the n-th such request, or scan, before or after it is carried out, and so many seconds later."""

    request: str
    done: bool
    number: int
    delay_s: float


class Cuts:
    """A run of cuts, and what was found."""

    def __init__(self, machine: Path, checkout: Path, work: Path, seed: int) -> None:
        self._machine = machine
        self._work = work
        self._chance = random.Random(seed)
        self._event = made_up_event(TICKETS)
        self.server = Server(self._event, self._seen)
        self.server.start()
        self._disk = installed(machine, checkout, work, int(self.server.url.split(":")[2].split("/")[0]))
        schema = checkout / "gated/store/schema"
        self.truth = Truth(lambda: self._event.tickets, len(list(schema.glob("journal-*.sql"))))
        self._fresh = (f"GATED{number:06}" for number in count(1))
        self._sold = count(TICKETS + 1)
        self._trigger: Trigger | None = None
        self._guest: Guest | None = None
        self.made: Counter[str] = Counter()
        """Cuts by their moment."""
        self.read = 0
        """Barcodes read, whatever came of them."""
        self.unready: list[str] = []
        self.refused: list[str] = []
        """Valid tickets, never read before, that were shown a red lamp."""
        self.unanswered: list[str] = []
        self.missed: list[str] = []
        """Cuts whose moment did not come."""
        self.counts: Counter[str] = Counter()
        self.disagreements: list[str] = []
        """Where server and journal disagree in the end, and how much went up, again, and marked."""
        self.ready_s = 0.0
        """From power on to the last gate that was ready."""
        self.panics = 0

    def run(self, number: int) -> None:
        """So many cuts, then a boot in which everything goes up and down undisturbed."""
        for cut in range(number):
            moment = MOMENTS[cut] if cut < len(MOMENTS) else self._chance.choice(MOMENTS)
            self._boot(f"cut {cut + 1}, {moment}", getattr(self, f"_in_{moment}"))
            self.made[moment] += 1
            self._note(cut=cut + 1, moment=moment)
        self._boot("the end", self._end)
        self.counts, self.disagreements = self.truth.compare_server(self.server)
        self._note(made=self.made, server=self.counts, disagreements=self.disagreements)

    def _boot(self, name: str, until_cut: Callable[[Guest], None]) -> None:
        guest = self._guest = self._powered_on(name)
        try:
            self.truth.compare(guest.left(self._work / "left"), f"before {name}")
            ready = guest.wait(lambda line: line["what"] == "ready", READY_S)
            if ready is None or ready["restarts"]:
                self.unready.append(f"{name}: {ready}")
            self.ready_s = time.monotonic() - guest.on_since
            until_cut(guest)
        finally:
            self._trigger = None
            guest.close()
            self.truth.power_goes()

    def _powered_on(self, name: str) -> Guest:
        """A guest that has come up; the emulator, on a busy host, may need to be started again for that."""
        for _ in range(TRIES):
            guest = Guest(self._machine, self._disk, self._work, self.truth.hear)
            if guest.wait(lambda line: line["what"] == "up", READY_S) is not None:
                return guest
            guest.close()
            self.panics += 1
        raise RuntimeError(f"{name}: the machine does not come up; see {self._work}/console.log")

    def _note(self, **what: object) -> None:
        """What is known so far, one line a cut."""
        known = {
            "ready_s": round(self.ready_s, 1),
            "panics": self.panics,
            "read": self.read,
            "releases": len(self.truth.releases),
            "journalled": len(self.truth.journal),
            "uploaded": len(self.server.uploaded),
            "purges": self.truth.purges,
            "steps": self.truth.steps,
            "violations": self.truth.violations,
            "twice": self.truth.twice(),
            "unready": self.unready,
            "refused": self.refused,
            "unanswered": self.unanswered,
            "missed": self.missed,
        }
        with (self._work / "cuts.jsonl").open("a") as notes:
            notes.write(json.dumps(what | known) + "\n")

    # Moments

    def _in_scans(self, guest: Guest) -> None:
        """While a barcode is on its way: before its commit, between that and its relay, or after both."""
        guest.ask("sync", MOMENT_S)  # waits for the full download that the start began
        self._trigger = Trigger("scan", False, self._chance.randint(3, 12), self._chance.uniform(0, 0.5))
        self._let_guests_come(guest)

    def _in_upload(self, guest: Guest) -> None:
        guest.ask("sync", MOMENT_S)
        self._cut_at("upload", self._chance.randint(1, 8), 0.2)
        self._let_guests_come(guest)

    def _in_full(self, guest: Guest) -> None:
        """In the full download that follows a start, or in one that is asked for."""
        self._cut_at("full", self._chance.randint(1, 6), 0.5)
        guest.tell("ask", "sync", {"full": True})
        self._let_guests_come(guest)

    def _in_delta(self, guest: Guest) -> None:
        guest.ask("sync", MOMENT_S)
        self._let_guests_come(guest, 4)
        for _ in range(SOLD):
            self._event.add_ticket(Ticket(f"GATED{next(self._sold):06}"))
        self._cut_at("delta", self._chance.randint(1, 2), 0.5)
        guest.tell("ask", "sync", {})
        self._let_guests_come(guest)

    def _in_migration(self, guest: Guest) -> None:
        """gated is restarted as a newer one, whose journal has one step more."""
        delay_s = self._chance.uniform(0, 0.4)
        guest.ask("sync", MOMENT_S)
        self._let_guests_come(guest, 6)
        self.truth.steps += 1
        guest.tell("step", self.truth.released_steps + self.truth.steps, _step(self.truth.steps))
        if guest.wait(lambda line: line["what"] == "migrating", MOMENT_S) is None:
            self.missed.append(f"migration {self.truth.steps}")
        time.sleep(delay_s)
        guest.cut()

    def _in_purge(self, guest: Guest) -> None:
        """After everything went up: what is purged is known here before."""
        delay_s = self._chance.uniform(0, 3)
        guest.ask("sync", MOMENT_S)
        self._let_guests_come(guest, 6)
        self._settle(guest)
        since = guest.mark()
        self.truth.purge_begins()
        guest.tell("ask", "purge", {"why": "the event is over"})
        if guest.wait(lambda line: line.get("command") == "purge", MOMENT_S, since) is None:
            self.missed.append("purge")
        time.sleep(delay_s)
        guest.cut()

    def _end(self, guest: Guest) -> None:
        guest.ask("sync", MOMENT_S)
        self._let_guests_come(guest, 6)
        self._settle(guest)

    def _settle(self, guest: Guest) -> None:
        """Until the server has everything; then the journal is taken out once more."""
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            guest.ask("sync", MOMENT_S)
            answers = guest.ask("outbox")
            if answers and not any("answer" in line for line in answers):
                break
            time.sleep(1)
        since = guest.mark()
        guest.tell("take")
        if guest.wait(lambda line: line["what"] == "taken", MOMENT_S, since) is None:
            raise RuntimeError("the journal could not be taken out")
        self.truth.compare(guest.left(self._work / "left"), "a running gate")

    def _cut_at(self, request: str, number: int, within_s: float) -> None:
        done, delay_s = self._chance.random() < 0.5, self._chance.uniform(0, within_s)
        self._trigger = Trigger(request, done, number, delay_s)

    def _seen(self, request: str, done: bool) -> bool:
        """The server sees a request. False if the power went before it was carried out."""
        trigger = self._due(request, done)
        if trigger is None or self._guest is None:
            return True
        time.sleep(trigger.delay_s)
        self._guest.cut()
        return False

    def _due(self, request: str, done: bool) -> Trigger | None:
        """The trigger, if this is what it waits for."""
        trigger = self._trigger
        if trigger is None or (request, done) != (trigger.request, trigger.done):
            return None
        left = trigger.number - 1
        self._trigger = replace(trigger, number=left) if left else None
        return None if left else trigger

    # Guests

    def _let_guests_come(self, guest: Guest, reads: int | None = None) -> None:
        """To both lanes until the power is cut, or so many barcodes were read at the entry."""
        leaving = threading.Event()
        exits = threading.Thread(target=self._let_guests_leave, args=(guest, leaving))
        exits.start()
        deadline = time.monotonic() + MOMENT_S
        while not guest.is_cut.is_set() and reads != 0:
            if time.monotonic() > deadline:
                self.missed.append(str(self._trigger))
                break
            self._enter(guest, self._chance.random())
            reads = None if reads is None else reads - 1
        leaving.set()
        exits.join()

    def _enter(self, guest: Guest, chance: float) -> None:
        """Mostly a guest with a ticket of their own; sometimes one whose ticket was used before."""
        if (trigger := self._due("scan", False)) is not None:
            threading.Timer(trigger.delay_s, guest.cut).start()
        # Not the last one: read again so soon, it is a phone held still.
        used = self.truth.admitted()[:-1]
        if used and chance < 0.15:
            self._read(guest, "entry", used[-1])
        elif used and chance < 0.3:
            self._read(guest, "entry", used[int(chance * 1000) % len(used)])
        else:
            barcode = next(self._fresh)
            if self._read(guest, "entry", barcode) == "red":
                self.refused.append(barcode)

    def _let_guests_leave(self, guest: Guest, leaving: threading.Event) -> None:
        while not leaving.is_set() and not guest.is_cut.is_set():
            left = {barcode for lane, barcode in self.truth.releases if lane == "exit"}
            inside = [barcode for barcode in self.truth.admitted() if barcode not in left]
            if inside:
                self._read(guest, "exit", inside[0])
            else:
                time.sleep(0.1)

    def _read(self, guest: Guest, lane: str, barcode: str) -> str:
        """A barcode is read at a lane: what came of it, "released" or a lamp; blank if the power was cut."""
        since = guest.mark()
        self.truth.told[lane] = barcode
        self.read += 1
        guest.tell("scan", lane, barcode)
        answer = guest.wait(lambda line: _answers(line, lane), ANSWER_S, since)
        if answer is None:
            if not guest.is_cut.is_set():
                self.unanswered.append(f"{lane} {barcode}")
            return ""
        if answer["pin"] in RELEASES:
            guest.is_cut.wait(GRANT_S)
            return "released"
        guest.is_cut.wait(DENIED_S)
        return LAMPS[answer["pin"]][1]


def _answers(line: Line, lane: str) -> bool:
    """Whether a line is what the lane shows for a barcode."""
    if line["what"] != "level":
        return False
    pin, level = line["pin"], line["level"]
    return RELEASES.get(pin) == (lane, level) or (level == 1 and LAMPS.get(pin, ("",))[0] == lane)


def _step(number: int) -> str:
    """A step of the journal's schema that writes more than SQLite keeps in memory before it is committed."""
    rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)"
    fill = f"CREATE TABLE step_{number} AS {rows} SELECT i, randomblob(500) AS filler FROM n;"
    return fill + (f"\nDROP TABLE step_{number - 1};" if number > 1 else "")
