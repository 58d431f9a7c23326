"""The promise that no ticket admits twice, against a server that lags, loses answers and is reset."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gated.core.overlay import SETTLING
from gated.core.scan import Direction
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, admit, deny
from gated.store.desk import Ask, Decided, DeskRules
from gated.store.journal import Passage
from tests.store.desks import ASK_ALL, LOCAL, Counter, moment, scan

SETTLING_S = int(SETTLING.total_seconds())


class GivesBack(StrEnum):
    """What a check-out does to a ticket at the server."""

    NOTHING = "nothing"
    MORE_REMAIN = "more remain"
    COUNTS_LESS = "counts less"


@dataclass(frozen=True)
class State:
    """A ticket at the server, from a moment on."""

    since: float
    count: int = 0
    returned: int = 0
    resets: int = 0
    inside: bool = False


class Server:
    """One ticket, good for ``most`` entries. It shows what it knew a while ago."""

    def __init__(self, most: int, gives_back: GivesBack) -> None:
        self.most = most
        self.gives_back = gives_back
        self.states = [State(0.0)]
        self.forgiven = [0]

    @property
    def state(self) -> State:
        return self.states[-1]

    def remaining(self, state: State) -> int:
        return self.most - state.count + state.returned

    def check_in(self, now: float) -> None:
        self.states.append(replace(self.state, since=now, count=self.state.count + 1, inside=True))

    def check_out(self, now: float) -> None:
        state = replace(self.state, since=now, inside=False)
        if self.gives_back is GivesBack.MORE_REMAIN:
            state = replace(state, returned=state.returned + 1)
        elif self.gives_back is GivesBack.COUNTS_LESS:
            state = replace(state, count=max(0, state.count - 1))
        self.states.append(state)

    def reset(self, now: float) -> None:
        """The organiser gives all entries back."""
        used = self.most - self.remaining(self.state)
        self.forgiven.append(self.forgiven[-1] + min(max(used, 0), self.most))
        self.states.append(replace(self.state, since=now, count=0, returned=0, resets=self.state.resets + 1))

    def shown(self, at: float) -> State:
        return [state for state in self.states if state.since <= at][-1]

    def row(self, state: State) -> Ticket:
        return Ticket(
            barcode_id="T1",
            external_barcode_id="X1",
            checkin_allowed=True,
            remaining=self.remaining(state),
            checked_in=state.count,
            max_checkins=self.most,
        )


lanes = st.sampled_from("AB")
texts = st.sampled_from(["T1", "X1"])
fates = st.sampled_from(["answered", "answered", "answered", "answer lost", "came late", "never arrived"])
whiles = st.sampled_from([60, 4 * 60, SETTLING_S - 1, SETTLING_S, 20 * 60])  # seconds


class Gate(RuleBasedStateMachine):
    """One gate with two entry lanes and an exit, one ticket, one server, and all that can go wrong."""

    @initialize(
        most=st.integers(1, 3),
        gives_back=st.sampled_from(GivesBack),
        reentry=st.booleans(),
    )
    def open(self, most: int, gives_back: GivesBack, reentry: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.server = Server(most, gives_back)
        self.exits_count = reentry or gives_back is not GivesBack.NOTHING
        self.rules = DeskRules(reentry_after_checkout=reentry)
        self.now, self.booted, self.boots = 0.0, 0.0, 0
        self.told = 0
        self.admitted = self.exits = self.regranted = self.lapsed = 0
        self.unknown_passage: list[int] = []
        self.asks: list[Ask] = []
        self.late: list[int] = []
        self.counter = Counter(self.folder, self.rules)
        self.counter.load(self.server.row(self.server.state))

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()
            shutil.rmtree(self.folder)

    @property
    def monotonic(self) -> float:
        return self.now - self.booted

    def scan(self, text: str, lane: str, direction: Direction = Direction.ENTRY):
        at = replace(moment(self.now), monotonic=self.monotonic, boot=f"boot {self.boots}")
        return scan(text, at, lane=lane, direction=direction)

    def came_of_it(self, decided: Decided) -> None:
        if not decided.verdict.admitted:
            return
        if decided.scan.direction is Direction.EXIT:
            self.exits += 1
        elif decided.verdict.reason is Reason.REGRANT:
            self.regranted += 1
        else:
            self.admitted += 1
            if decided.seq is not None:
                self.unknown_passage.append(decided.seq)

    # What guests do

    @rule(lane=lanes, text=texts)
    def present(self, lane: str, text: str) -> None:
        self.came_of_it(self.counter.decide(self.scan(text, lane)))

    @rule(text=texts)
    def leave(self, text: str) -> None:
        self.came_of_it(self.counter.decide(self.scan(text, "exit", Direction.EXIT)))

    @rule(lane=lanes, text=texts)
    def present_at_a_lane_that_asks(self, lane: str, text: str) -> None:
        answer = self.counter.desk.decide(self.scan(text, lane), ASK_ALL)
        if isinstance(answer, Ask):
            self.asks.append(answer)
        else:
            self.came_of_it(answer)

    @precondition(lambda self: self.asks)
    @rule(fate=fates)
    def a_question_ends(self, fate: str) -> None:
        ask = self.asks.pop(0)
        recorded = fate != "never arrived" and self.server.remaining(self.server.state) > 0
        if fate == "answered":
            self.told = self.server.state.resets
        if recorded:
            self.server.check_in(self.now)
        if fate == "answered":
            verdict = admit(100, Reason.VALID) if recorded else deny(50, Reason.ALREADY_SCANNED)
            when = self.monotonic if recorded else None
            decided = self.counter.desk.settle(ask, verdict, ask.origin, recorded=when)
        else:
            decided = self.counter.desk.settle(ask, ask.fallback, Origin.FALLBACK)
            if fate == "came late" and recorded and decided.verdict.admitted and decided.seq is not None:
                self.late.append(decided.seq)
        self.came_of_it(decided)

    @precondition(lambda self: self.late)
    @rule()
    def a_late_answer_comes(self) -> None:
        self.counter.journal.acknowledge_one(self.late.pop(), self.counter.running.at(self.monotonic))

    @precondition(lambda self: self.unknown_passage)
    @rule()
    def nobody_passes(self) -> None:
        self.lapsed += 1
        self.counter.journal.set_passage(self.unknown_passage.pop(), Passage.NOT_TAKEN)

    # What the network does

    @rule(limit=st.integers(1, 3), fate=fates)
    def upload(self, limit: int, fate: str) -> None:
        rows = self.counter.journal.freeze("S1", limit, moment(self.monotonic))
        if fate == "never arrived":
            return
        for row in rows:
            if row.status_code == 100:
                self.server.check_in(self.now)
            elif row.status_code == 200:
                self.server.check_out(self.now)
        if fate == "answered":
            self.counter.journal.acknowledge(rows, self.counter.running.at(self.monotonic))

    @rule(lag=st.sampled_from([0, 0, 61, SETTLING_S - 1]))
    def download(self, lag: int) -> None:
        state = self.server.shown(max(0.0, self.now - lag))
        self.told = max(self.told, state.resets)
        self.counter.load(self.server.row(state), asked=self.monotonic)

    # What else happens

    @rule()
    def the_organiser_resets_the_ticket(self) -> None:
        self.server.reset(self.now)

    @rule()
    def another_gate_admits(self) -> None:
        if self.server.remaining(self.server.state) > 0:
            self.server.check_in(self.now)

    @rule(seconds=whiles)
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=whiles)
    def the_gate_is_quiet_and_downloads(self, seconds: int) -> None:
        self.now += seconds
        self.download(0)

    @rule(seconds=whiles)
    def the_power_goes(self, seconds: int) -> None:
        self.counter.close()
        self.now += seconds
        self.booted, self.boots = self.now, self.boots + 1
        self.asks.clear()
        self.late.clear()
        self.unknown_passage.clear()
        self.counter = Counter(self.folder, self.rules)

    @rule(lane=lanes, text=texts)
    def present_while_the_disk_fails(self, lane: str, text: str) -> None:
        with self.counter.disk_failing():
            self.came_of_it(self.counter.decide(self.scan(text, lane)))
            self.came_of_it(self.counter.decide(self.scan(text, lane)))
        assert self.counter.desk.write_waiting() == 0

    # What must hold

    @invariant()
    def no_ticket_is_admitted_more_often_than_it_allows(self) -> None:
        allowed = self.server.most + self.server.forgiven[self.told]
        if self.exits_count:
            allowed += self.exits
        assert self.admitted <= allowed
        assert self.regranted <= self.lapsed

    @precondition(lambda self: not self.asks)
    @rule()
    def in_the_end_the_server_is_right(self) -> None:
        journal = self.counter.journal
        while rows := journal.freeze("S1", 50, moment(self.monotonic)):
            for row in rows:
                (self.server.check_in if row.status_code == 100 else lambda _: None)(self.now)
            journal.acknowledge(rows, self.counter.running.at(self.monotonic))
        self.now += SETTLING_S + 15 * 60 + 1
        self.download(0)
        answer = self.counter.decide(self.scan("T1", "A"), LOCAL)
        self.came_of_it(answer)
        assert answer.verdict.admitted == (self.server.remaining(self.server.state) > 0)


class TestGate(Gate.TestCase):
    settings = settings(
        max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
