"""A lane with fake pins, scanner and store, in virtual time: what the visitor would see, and when."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from gated.asking import Asker
from gated.core.events import (
    EmergencyBegan,
    EmergencyEnded,
    LaneRules,
    Mode,
    ModeCommanded,
    PassageDone,
    Profile,
    Sensors,
)
from gated.core.own_signals import Change, Signals, TypeSignal
from gated.core.scan import Direction, LaneName, Moment, Scan, TimeTrust
from gated.core.signals import Lamp, Outcome
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.errors import StoreError
from gated.interlock import Interlock
from gated.lane import Equipment, Gate, RunningLane, Setting
from gated.pins.fake import FakePins
from gated.scanners.fake import FakeScanner
from gated.store import Decided, Passage, Store, Terms
from gated.store.writer import Piece
from tests import virtual_time

RELEASE, GREEN, RED = 17, 22, 23
VALID = admit(100, Reason.VALID)
UNKNOWN = deny(40, Reason.UNKNOWN)


class FixedClock:
    def now(self) -> Moment:
        loop = asyncio.get_running_loop()
        return Moment(datetime(2026, 7, 1, 20, tzinfo=UTC), TimeTrust.SYNCHRONISED, loop.time(), "boot")

    def learn(self, server: datetime, monotonic: float) -> None: ...


@dataclass
class FakeStore:
    """Answers with the verdict that a barcode stands for, after ``delay`` seconds."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    delay: float = 0.0
    broken: bool = False
    decided: list[str] = field(default_factory=list)
    undecided: list[tuple[str, Reason]] = field(default_factory=list)
    passages: list[tuple[int, Passage]] = field(default_factory=list)
    occurrences: list[str] = field(default_factory=list)

    def decide(self, scan: Scan, terms: Terms) -> Piece[Decided]:
        self.decided.append(scan.barcode)
        verdict = self.verdicts.get(scan.barcode, VALID)
        ticket = self.tickets.get(scan.barcode)
        return self._later(Decided(scan, verdict, Origin.LOCAL, ticket, len(self.decided)))

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Piece[Decided]:
        self.undecided.append((scan.barcode, verdict.reason))
        return self._later(Decided(scan, verdict, Origin.LOCAL, None, 1))

    def _later(self, decided: Decided) -> Piece[Decided]:
        piece = Piece(lambda: decided)
        outcome = StoreError("the disk is gone") if self.broken else decided
        asyncio.get_running_loop().call_later(self.delay, piece.settle, outcome)
        return piece

    async def override(self, scan: Scan) -> Decided:
        return Decided(scan, VALID, Origin.OVERRIDE, None, 1)

    async def set_passage(self, seq: int, came: Passage) -> None:
        self.passages.append((seq, came))

    async def occurred(self, kind: str, lane: str, what: str, why: str, at: Moment) -> None:
        self.occurrences.append(what)


class NobodyToAsk:
    worthwhile = False

    def rationed(self, lane: LaneName) -> bool:
        return False


class Rig:
    """One lane, or several with :meth:`add`."""

    def __init__(self) -> None:
        self.loop = virtual_time.loop()
        self.began = self.loop.time()
        self.pins = FakePins(lambda: round(self.loop.time() - self.began, 3))
        self.store = FakeStore()
        self.happened: list[tuple[str, str, Mapping[str, object]]] = []
        self.lanes: list[RunningLane] = []
        self.scanners: list[FakeScanner] = []

    def add(
        self,
        rules: LaneRules,
        name: str = "in",
        *,
        release: int = RELEASE,
        interlock: Interlock | None = None,
        signals: Signals = Signals(),  # noqa: B008 - it is frozen
    ) -> RunningLane:
        scanner = FakeScanner()
        lamps = {}
        if not self.lanes:
            lamps = {
                Lamp.GREEN: self.pins.output(GREEN, active_high=True),
                Lamp.RED: self.pins.output(RED, active_high=True),
            }
        equipment = Equipment(self.pins.output(release, active_high=True), lamps, None, (scanner,))
        gate = Gate(
            cast(Store, self.store),
            cast(Asker, NobodyToAsk()),
            FixedClock(),
            lambda lane, what, detail: self.happened.append((lane, what, detail)),
        )
        setting = Setting(
            LaneName(name), rules, timedelta(milliseconds=500), frozenset(), False, False, interlock, signals
        )
        lane = RunningLane(setting, equipment, gate)
        self.lanes.append(lane)
        self.scanners.append(scanner)
        return lane

    async def start(self) -> None:
        for lane in self.lanes:
            lane.start()
        await self.wait(0.01)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def scan(self, barcode: str, lane: int = 0) -> None:
        self.scanners[lane].scan(barcode)
        await self.wait(0.01)

    def shown(self, lane: int = 0) -> object:
        return self.lanes[lane].view()["shown"]

    def released(self, pin: int = RELEASE) -> list[float]:
        """When the release output was energised, in seconds."""
        return [at for at, active in self.pins.times(pin) if active]


ENTRY = LaneRules(Direction.ENTRY)
SEEN = LaneRules(Direction.ENTRY, sensors=Sensors.ONE)
HELD = LaneRules(Direction.ENTRY, profile=Profile.HOLD, sensors=Sensors.ONE)
EXIT = LaneRules(Direction.EXIT, opens_always=True)


def virtually(test: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(test)


def test_an_admitted_guest_gets_one_pulse_and_a_green_lamp() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        await rig.start()
        await rig.scan("A")
        assert rig.shown() == Outcome.ADMIT
        assert rig.pins.outputs[GREEN].active
        await rig.wait(6)
        assert rig.pins.times(RELEASE) == [(0.01, True), (0.51, False)]
        assert rig.shown() == Outcome.READY

    virtually(act())


def test_a_denied_guest_sees_red_for_two_seconds_and_nothing_opens() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        rig.store.verdicts["A"] = UNKNOWN
        await rig.start()
        await rig.scan("A")
        assert (rig.shown(), rig.released()) == (Outcome.DENY, [])
        await rig.wait(2)
        assert rig.shown() == Outcome.READY

    virtually(act())


def test_a_type_of_ticket_that_staff_should_look_at_is_shown_in_its_own_way() -> None:
    async def act() -> None:
        rig = Rig()
        child = TypeSignal(look=True, change=Change(text="Child: please look"))
        rig.add(ENTRY, signals=Signals(types={"Child": child}))
        rig.store.tickets["A"] = Ticket(barcode_id="A", type_name="Child")
        rig.store.tickets["B"] = Ticket(barcode_id="B", type_name="Adult")
        rig.store.tickets["C"] = Ticket(barcode_id="C", type_name="Child")
        rig.store.verdicts["C"] = UNKNOWN
        await rig.start()
        shown = []
        for barcode in "ABC":
            await rig.scan(barcode)
            last = [detail for _, what, detail in rig.happened if what == "shown"][-1]
            shown.append((last["outcome"], last["text"]))
            await rig.wait(6)
        assert shown == [
            (Outcome.ADMIT_LOOK, "Child: please look"),
            (Outcome.ADMIT, "Welcome"),
            (Outcome.DENY, "Not valid here"),
        ]

    virtually(act())


def test_the_relay_moves_before_the_lamps_and_after_the_verdict_is_written() -> None:
    async def act() -> None:
        rig = Rig()
        rig.store.delay = 0.3
        rig.add(ENTRY)
        await rig.start()
        await rig.scan("A")
        assert rig.shown() == Outcome.READY  # within 50 ms nobody wants to be told to wait
        await rig.wait(0.06)
        assert (rig.shown(), rig.released()) == (Outcome.DECIDING, [])
        await rig.wait(0.25)
        moves = [written.pin for written in rig.pins.history if written.at == 0.31]
        assert moves[0] == RELEASE

    virtually(act())


def test_a_held_barrier_is_released_until_the_passage_is_done() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(HELD)
        await rig.start()
        await rig.scan("A")
        await rig.wait(2)
        lane.feed(PassageDone(rig.loop.time()))
        await rig.wait(0.01)
        assert rig.pins.times(RELEASE) == [(0.01, True), (2.02, False)]
        assert rig.store.passages == [(1, Passage.TAKEN)]

    virtually(act())


def test_a_phone_held_still_is_scanned_once() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(ENTRY)
        await rig.start()
        for _ in range(20):
            await rig.scan("A")
            await rig.wait(0.4)
        assert rig.store.decided == ["A"]

    virtually(act())


def test_the_next_guest_waits_unspent_and_is_decided_when_the_first_has_passed() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(SEEN)
        await rig.start()
        await rig.scan("A")
        await rig.scan("B")
        assert rig.store.decided == ["A"]
        lane.feed(PassageDone(rig.loop.time()))
        await rig.wait(0.01)
        assert rig.store.decided == ["A", "B"]
        assert len(rig.released()) == 2

    virtually(act())


def test_a_store_that_fails_denies_and_the_lane_goes_on() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        rig.store.broken = True
        await rig.start()
        await rig.scan("A")
        assert (rig.released(), lane.alive) == ([], True)
        rig.store.broken = False
        await rig.scan("B")
        assert len(rig.released()) == 1

    virtually(act())


def test_an_exit_opens_even_if_the_store_fails() -> None:
    async def act() -> None:
        rig = Rig()
        rig.add(EXIT)
        rig.store.broken = True
        await rig.start()
        await rig.scan("A")
        assert len(rig.released()) == 1

    virtually(act())


def test_an_exit_whose_scanner_is_lost_is_free_and_a_held_one_stands_open() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(LaneRules(Direction.EXIT, profile=Profile.HOLD, opens_always=True))
        await rig.start()
        rig.scanners[0].lose()
        assert lane.view()["state"] == "free"
        assert rig.pins.outputs[RELEASE].active
        rig.scanners[0].find()
        assert not rig.pins.outputs[RELEASE].active

    virtually(act())


def test_an_exit_that_loses_its_scanner_in_mid_pulse_finishes_the_pulse() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(EXIT)
        await rig.start()
        await rig.scan("A")
        rig.scanners[0].lose()
        assert lane.view()["state"] == "free"
        await rig.wait(1)
        assert rig.pins.times(RELEASE) == [(0.01, True), (0.51, False)]

    virtually(act())


def test_a_broken_lamp_never_keeps_a_guest_out() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        rig.pins.broken.update({GREEN, RED})
        await rig.scan("A")
        assert (len(rig.released()), lane.alive) == (1, True)

    virtually(act())


def test_a_barrier_that_can_not_be_driven_raises_the_alarm_and_the_lane_lives() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        rig.pins.broken.add(RELEASE)
        await rig.scan("A")
        assert rig.store.occurrences == ["barrier_failed"]
        assert lane.alive

    virtually(act())


def test_a_line_that_does_not_follow_raises_the_alarm_and_keeps_nobody_out() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        rig.pins.stuck[RELEASE] = True
        await rig.start()
        assert rig.store.occurrences == ["barrier_failed"]
        rig.pins.stuck[RELEASE] = False
        await rig.scan("A")
        await rig.wait(6)
        assert rig.store.occurrences == ["barrier_failed"] * 2
        assert rig.pins.times(RELEASE) == [(0.01, True), (0.51, False)]
        assert lane.alive

    virtually(act())


def test_the_end_of_a_pulse_that_can_not_be_driven_raises_the_alarm() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        await rig.scan("A")
        rig.pins.broken.add(RELEASE)
        await rig.wait(1)
        assert (rig.store.occurrences, lane.alive) == (["barrier_failed"], True)
        rig.pins.broken.clear()
        await rig.wait(6)  # the grant's end relocks as well
        assert not rig.pins.outputs[RELEASE].active

    virtually(act())


def test_in_an_emergency_a_held_barrier_is_released_and_nothing_is_spent() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(HELD)
        await rig.start()
        lane.feed(EmergencyBegan())
        await rig.scan("A")
        assert rig.pins.outputs[RELEASE].active
        assert (rig.store.decided, rig.store.undecided) == ([], [("A", Reason.UNDECIDED)])
        lane.feed(ModeCommanded(Mode.LOCKED))
        assert rig.pins.outputs[RELEASE].active
        lane.feed(EmergencyEnded())
        assert not rig.pins.outputs[RELEASE].active

    virtually(act())


def test_an_operator_is_refused_at_a_locked_lane_and_can_check_a_ticket_in() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        lane.feed(ModeCommanded(Mode.LOCKED))
        assert not await lane.release_by_operator()
        lane.feed(ModeCommanded(Mode.CONTROLLED))
        assert await lane.release_by_operator("A")
        assert len(rig.released()) == 1
        assert ("in", "scan") in [(lane_name, what) for lane_name, what, _ in rig.happened]

    virtually(act())


def test_a_stopped_lane_leaves_its_outputs_dark_in_the_middle_of_a_pulse() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        await rig.scan("A")
        assert rig.pins.outputs[RELEASE].active
        await lane.close()
        assert not any(output.active for output in rig.pins.outputs.values())

    virtually(act())


def test_a_verdict_that_comes_while_the_lane_stops_releases_nothing_and_leaves_the_ticket_good() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        rig.store.delay = 0.5
        await rig.start()
        await rig.scan("A")
        await lane.close()
        assert rig.released() == []
        assert rig.store.passages == [(1, Passage.NOT_TAKEN)]

    virtually(act())


def test_a_stop_waits_two_seconds_at_most_for_a_verdict() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        rig.store.delay = 60.0
        await rig.start()
        await rig.scan("A")
        before = rig.loop.time()
        await lane.close()
        assert rig.loop.time() - before == pytest.approx(2.0, abs=0.1)

    virtually(act())


@pytest.mark.parametrize(
    ("hampered", "shown"), [(Outcome.OFFLINE, "offline"), (Outcome.NOT_READY, "not_ready")]
)
def test_a_hampered_lane_shows_it_at_rest_but_a_lost_scanner_first(hampered: Outcome, shown: str) -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(ENTRY)
        await rig.start()
        lane.set_resting(hampered)
        assert rig.shown() == shown
        rig.scanners[0].lose()
        assert rig.shown() == Outcome.SCANNER_LOST
        rig.scanners[0].find()
        assert rig.shown() == shown

    virtually(act())


def test_lanes_that_share_a_barrier_take_turns_and_a_waiting_exit_goes_first() -> None:
    async def act() -> None:
        rig = Rig()
        turns = Interlock()
        entry = rig.add(SEEN, "in", interlock=turns)
        rig.add(SEEN, "in too", release=5, interlock=turns)
        rig.add(EXIT, "out", release=6, interlock=turns)
        await rig.start()
        await rig.scan("A", 0)
        await rig.scan("B", 1)
        await rig.scan("C", 2)
        assert [len(rig.released(pin)) for pin in (RELEASE, 5, 6)] == [1, 0, 0]
        entry.feed(PassageDone(rig.loop.time()))
        await rig.wait(0.01)
        assert [len(rig.released(pin)) for pin in (RELEASE, 5, 6)] == [1, 0, 1]
        await rig.wait(6)
        assert [len(rig.released(pin)) for pin in (RELEASE, 5, 6)] == [1, 1, 1]
        assert rig.store.decided == ["A", "C", "B"]

    virtually(act())


def test_who_waits_for_a_turn_is_replaced_by_an_operators_word_alone_and_never_without_a_trace() -> None:
    async def act() -> None:
        rig = Rig()
        turns = Interlock()
        entry = rig.add(SEEN, "in", interlock=turns)
        other = rig.add(SEEN, "in too", release=5, interlock=turns)
        await rig.start()
        await rig.scan("A", 0)
        await rig.scan("B", 1)
        await rig.scan("B", 1)
        assert rig.shown(1) == Outcome.DECIDING
        await rig.scan("C", 1)
        assert rig.shown(1) == Outcome.BUSY
        assert rig.store.undecided == []
        assert await other.release_by_operator()
        assert rig.store.undecided == [("B", Reason.UNDECIDED)]
        await rig.scan("D", 1)
        entry.feed(PassageDone(rig.loop.time()))
        await rig.wait(0.01)
        assert len(rig.released(5)) == 1
        assert rig.store.decided == ["A"]

    virtually(act())


def test_a_failure_that_nobody_foresaw_makes_the_lane_dead() -> None:
    async def act() -> None:
        rig = Rig()
        lane = rig.add(SEEN)
        rig.store.occurrences = cast(list[str], None)
        await rig.start()
        lane.feed(PassageDone(rig.loop.time()))
        await rig.wait(0.01)
        assert not lane.alive

    virtually(act())
