"""The promises that no ticket admits twice and that no scan is lost, broken at with all that can go wrong.

The server lags, loses answers, answers late, and is reset; the power goes; the disk fails.
"""

import shutil
import tempfile
from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gated.core.outbox import Row, Window
from gated.core.overlay import SETTLING
from gated.core.scan import Direction, Scan
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.desk import Ask, Decided, Reply
from gated.store.journal import Passage
from gated.store.memory import DeskRules
from tests.store.desks import ASK_ALL, LOCAL, NOON, Counter, moment, scan

SETTLING_S = int(SETTLING.total_seconds())
# A call ends within so many seconds, and is written with the window in which the server may carry it out.
CALL_S, BEFORE_S, AFTER_S = 6, 5, 11


class GivesBack(StrEnum):
    """What a check-out does to a ticket at the server."""

    NOTHING = "nothing"
    MORE_REMAIN = "more remain"
    COUNTS_LESS = "counts less"


@dataclass(frozen=True)
class State:
    """A ticket at the server, from a moment on. Times are seconds after noon."""

    since: float
    count: int = 0
    returned: int = 0
    resets: int = 0
    last_in: float | None = None
    last_out: float | None = None


class Server:
    """One ticket, good for ``most`` entries. It shows what it knew a while ago."""

    def __init__(self, most: int, gives_back: GivesBack) -> None:
        self.most = most
        self.gives_back = gives_back
        self.states = [State(0.0)]
        self.forgiven = [0]
        self.got: Tally[int] = Tally()
        """How often each scan of the gate, by its number there, has been recorded."""

    @property
    def state(self) -> State:
        return self.states[-1]

    def remaining(self, state: State) -> int:
        return self.most - state.count + state.returned

    @property
    def admits(self) -> bool:
        return self.remaining(self.state) > 0

    def check_in(self, now: float, at: float | None = None) -> None:
        at = now if at is None else at
        last_in = max(at, self.state.last_in or at)
        self.states.append(replace(self.state, since=now, count=self.state.count + 1, last_in=last_in))

    def check_out(self, now: float, at: float) -> None:
        state = replace(self.state, since=now, last_out=max(at, self.state.last_out or at))
        if self.gives_back is GivesBack.MORE_REMAIN:
            state = replace(state, returned=state.returned + 1)
        elif self.gives_back is GivesBack.COUNTS_LESS:
            state = replace(state, count=max(0, state.count - 1))
        self.states.append(state)

    def take(self, rows: Iterable[Row], now: float) -> None:
        """Records an upload."""
        for row in rows:
            at = row.checked_in_time - NOON.timestamp()
            if row.status_code == 100:
                self.check_in(now, at)
            elif row.status_code == 200:
                self.check_out(now, at)
            self.got[row.seq] += 1

    def ask(self, now: float) -> Verdict:
        """Carries out a direct check-in."""
        if not self.admits:
            return deny(50, Reason.ALREADY_SCANNED, time=_time(self.state.last_in))
        self.check_in(now)
        return admit(100, Reason.VALID)

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
            last_checked_in=_time(state.last_in),
            last_checked_out=_time(state.last_out),
        )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else NOON + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Call:
    """A question whose guest does not wait any more, and what was decided without its answer."""

    began: float
    decided: Decided


lanes = st.sampled_from("AB")
texts = st.sampled_from(["T1", "X1"])
fates = st.sampled_from(["answered", "answered", "answer lost", "answer lost", "never arrived"])
ends = st.sampled_from(
    ["answered", "answered", "too late", "too late", "cut off", "never arrived", "unreachable"]
)
late_ends = st.sampled_from(["answered", "answered", "cut off", "never arrived", "unreachable"])
whiles = st.sampled_from([20, 60, 4 * 60, SETTLING_S - 1, SETTLING_S, 20 * 60])  # seconds

lags = st.sampled_from([0, 0, 61, SETTLING_S - 1])  # seconds


def nothing_is_asked(gate: "Gate") -> bool:
    return not gate.asks and not gate.calls


class Gate(RuleBasedStateMachine):
    """One gate with two entry lanes and an exit, one ticket, one server, and all that can go wrong."""

    @initialize(
        most=st.integers(1, 3),
        gives_back=st.sampled_from(GivesBack),
        reentry=st.booleans(),
        falls_back=st.booleans(),
    )
    def open(self, most: int, gives_back: GivesBack, reentry: bool, falls_back: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.server = Server(most, gives_back)
        self.exits_count = reentry or gives_back is not GivesBack.NOTHING
        self.rules = DeskRules(reentry_after_checkout=reentry)
        self.falls_back = falls_back
        self.now, self.booted, self.boots = 0.0, 0.0, 0
        self.told = 0
        self.admitted = self.exits = self.regranted = self.lapsed = 0
        self.kept_out = 0  # calls that the server recorded and whose guests did not get in
        self.elsewhere: list[float] = []  # when other gates admitted
        self.unknown_passage: list[int] = []
        self.asks: list[Ask] = []
        self.calls: list[Call] = []
        self.counter = Counter(self.folder, self.rules)
        self.counter.load(self.server.row(self.server.state))

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()
            shutil.rmtree(self.folder)

    @property
    def monotonic(self) -> float:
        return self.now - self.booted

    @property
    def running_ms(self) -> int:
        return self.counter.running.at(self.monotonic)

    def scan(self, text: str, lane: str, direction: Direction = Direction.ENTRY) -> Scan:
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

    @rule(lane=lanes, text=texts, noted=st.booleans())
    def present_at_a_lane_that_asks(self, lane: str, text: str, noted: bool) -> None:
        answer = self.counter.desk.decide(self.scan(text, lane), ASK_ALL)
        if isinstance(answer, Ask):
            self.asks.append(answer)
            if noted:
                self.counter.desk.note(answer, self.window(answer))
        else:
            self.came_of_it(answer)

    @precondition(nothing_is_asked)
    @rule(guests=st.lists(st.tuples(lanes, texts, ends), min_size=1, max_size=4), seconds=st.integers(1, 4))
    def guest_and_copies_come_one_after_another(
        self, guests: list[tuple[str, str, str]], seconds: int
    ) -> None:
        for lane, text, end in guests:
            self.present_at_a_lane_that_asks(lane, text, noted=True)
            if self.asks:
                self.a_question_ends(end)
            if not self.calls:
                self.now += seconds

    @precondition(lambda self: self.asks)
    @rule(end=ends)
    def a_question_ends(self, end: str) -> None:
        ask = self.asks.pop(0)
        if end == "answered":
            self.told = self.server.state.resets
            verdict = self.server.ask(self.now)
            decided = self.counter.desk.settle(ask, Reply(verdict, ask.origin, answered=self.monotonic))
            if verdict.admitted and decided.seq is not None:
                self.server.got[decided.seq] += 1
        else:
            decided = self.settle_unanswered(ask, lost=end != "unreachable")
            call = Call((ask.scan.at.wall - NOON).total_seconds(), decided)
            if end == "too late":
                self.calls.append(call)
            elif end == "cut off":
                self.carry_out(call)
        self.came_of_it(decided)

    def window(self, ask: Ask) -> Window:
        began = int(ask.scan.at.wall.timestamp())
        return Window(began - BEFORE_S, began + AFTER_S)

    def settle_unanswered(self, ask: Ask, *, lost: bool) -> Decided:
        window = self.window(ask) if lost else None
        verdict = ask.fallback if self.falls_back else deny(None, Reason.NO_ANSWER)
        return self.counter.desk.settle(ask, Reply(verdict, Origin.FALLBACK, call=window))

    def carry_out(self, call: Call) -> Verdict:
        """The server does what a call asks of it, whether or not anybody hears of it."""
        verdict = self.server.ask(self.now)
        if verdict.admitted and call.decided.seq is not None:
            self.server.got[call.decided.seq] += 1
            self.kept_out += not call.decided.verdict.admitted
        return verdict

    @precondition(lambda self: self.calls)
    @rule(end=late_ends)
    def a_call_that_nobody_waits_for_ends(self, end: str) -> None:
        call = self.calls.pop(0)
        verdict = self.carry_out(call) if end in ("answered", "cut off") else None
        seq = call.decided.seq
        assert seq is not None
        if end == "answered" and verdict is not None and verdict.admitted:
            if call.decided.verdict.admitted:
                self.counter.outbox.acknowledge_one(seq, self.running_ms)
        elif end in ("answered", "unreachable"):
            self.counter.outbox.found_not_recorded(seq)

    @precondition(lambda self: self.unknown_passage)
    @rule()
    def nobody_passes(self) -> None:
        self.lapsed += 1
        self.counter.journal.set_passage(self.unknown_passage.pop(), Passage.NOT_TAKEN)

    # What the network does

    @rule(limit=st.integers(1, 3), fate=fates)
    def upload(self, limit: int, fate: str) -> None:
        rows = self.freeze(limit)
        if fate != "never arrived":
            self.server.take(rows, self.now)
        if fate == "answered":
            self.counter.outbox.acknowledge(rows, self.running_ms)
        else:
            self.counter.outbox.lose(rows, self.running_ms)

    @rule(limit=st.integers(1, 3))
    def there_is_no_network(self, limit: int) -> None:
        self.counter.outbox.keep(self.freeze(limit))

    def freeze(self, limit: int) -> tuple[Row, ...]:
        return self.counter.outbox.freeze("S1", limit, moment(self.monotonic))

    @rule()
    def a_person_retries_what_is_parked(self) -> None:
        self.counter.outbox.retry()

    @rule(lag=lags)
    def download(self, lag: int) -> None:
        state = self.server.shown(max(0.0, self.now - lag))
        self.told = max(self.told, state.resets)
        self.counter.load(self.server.row(state), asked=self.monotonic)
        shown = self.counter.mirror.shown
        self.counter.outbox.settle_lost("S1", self.running_ms, shown)

    # What else happens

    @rule()
    def the_organiser_resets_the_ticket(self) -> None:
        self.server.reset(self.now)

    @rule()
    def another_gate_admits(self) -> None:
        if self.server.admits:
            self.server.check_in(self.now)
            self.elsewhere.append(self.now)

    @precondition(lambda self: all(self.now - call.began <= CALL_S - 2 for call in self.calls))
    @precondition(lambda self: not self.asks)
    @rule(seconds=st.integers(1, 2))
    def a_moment_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(nothing_is_asked)
    @rule(seconds=whiles)
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(nothing_is_asked)
    @rule(seconds=whiles, lag=lags)
    def the_gate_is_quiet_and_downloads(self, seconds: int, lag: int) -> None:
        self.now += seconds
        self.download(lag)

    @rule(seconds=whiles, arrived=st.booleans(), uploading=st.booleans())
    def the_power_goes(self, seconds: int, arrived: bool, uploading: bool) -> None:
        rows = self.freeze(2) if uploading else ()
        self.counter.close()
        if arrived:
            self.server.take(rows, self.now)
            for call in self.calls:
                self.carry_out(call)
            for _ in self.asks:
                self.kept_out += self.server.ask(self.now).admitted
        self.now += seconds
        self.booted, self.boots = self.now, self.boots + 1
        self.asks.clear()
        self.calls.clear()
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

    @invariant()
    def a_lost_call_lets_in_no_more_guests_than_it_kept_out(self) -> None:
        """But for those who were let in elsewhere in those very seconds: they look the same."""
        assert self.redeemed <= self.kept_out + len(self.elsewhere)

    @property
    def redeemed(self) -> int:
        """How many guests a lost call has let in."""
        query = "SELECT count(*) FROM scan WHERE admitted = 0 AND regranted = 1"
        return int(self.counter.journal_db.execute(query).fetchone()[0])

    @invariant()
    def what_moved_is_at_the_server_or_in_the_outbox_and_twice_only_if_marked(self) -> None:
        missing = 0
        for seq, wall_ms, marked, waits in self.counter.journal_db.execute(
            "SELECT s.seq, s.wall_ms, s.marked, o.seq IS NOT NULL FROM scan s LEFT JOIN outbox o USING (seq)"
            " WHERE s.moves = 1"
        ):
            assert self.server.got[seq] <= 1 or marked
            at = wall_ms / 1000 - NOON.timestamp()
            looks_recorded = any(abs(other - at) <= BEFORE_S + AFTER_S for other in self.elsewhere)
            missing += not (waits or self.server.got[seq] or looks_recorded)
        assert missing <= self.kept_out  # the server has these by a lost call

    @precondition(nothing_is_asked)
    @rule()
    def in_the_end_the_server_is_right(self) -> None:
        self.now += BEFORE_S + AFTER_S + 1
        self.download(0)
        self.counter.outbox.retry()
        while rows := self.freeze(50):
            self.server.take(rows, self.now)
            self.counter.outbox.acknowledge(rows, self.running_ms)
        assert self.counter.outbox.size().check_ins == 0
        self.now += SETTLING_S + 15 * 60 + 1
        self.download(0)
        answer = self.counter.decide(self.scan("T1", "A"), LOCAL)
        self.came_of_it(answer)
        assert answer.verdict.admitted == self.server.admits


class TestGate(Gate.TestCase):
    settings = settings(
        max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def test_an_entry_after_a_check_out_that_the_server_shows_already_is_not_given_back_once_more():
    gate = Gate()
    gate.open(most=1, gives_back=GivesBack.COUNTS_LESS, reentry=True, falls_back=False)
    gate.present("A", "T1")
    gate.in_the_end_the_server_is_right()
    gate.leave("T1")
    gate.upload(limit=1, fate="answered")
    gate.download(lag=0)
    for _ in range(2):
        gate.present("A", "T1")
    assert gate.admitted == 2
    gate.teardown()
