from dataclasses import dataclass, field
from itertools import product
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gated.core.events import (
    Alarm,
    AlarmKind,
    BarcodeRead,
    Came,
    Decide,
    Decided,
    Effects,
    EmergencyBegan,
    EmergencyEnded,
    Event,
    Journal,
    Lane,
    LaneRules,
    MalformedRead,
    Mode,
    ModeCommanded,
    Note,
    OperatorReleased,
    PassageBegan,
    PassageDone,
    Profile,
    Release,
    Relock,
    ScannersFound,
    ScannersLost,
    Sensors,
    Show,
    Start,
    State,
    Stop,
    TimerEnded,
)
from gated.core.passage import (
    AFTER_LAPSE,
    DOUBTFUL_SENSOR,
    EXIT_PATIENCE,
    PATIENCE,
    SHOWN,
    STUCK,
    TABLE,
    resting_state,
    step,
)
from gated.core.scan import Direction
from gated.core.signals import Outcome
from gated.core.verdict import Reason, Verdict, admit, deny

ADMIT = admit(100, Reason.VALID)
DENY = deny(40, Reason.UNKNOWN)
GRANT = 5.0  # seconds
EVENTS = get_args(Event)
ALL_RULES = [
    LaneRules(direction, profile, sensors, opens_always=opens_always)
    for direction, profile, sensors, opens_always in product(Direction, Profile, Sensors, (False, True))
    if direction is Direction.EXIT or not opens_always
]
AT_REST = (State.READY, State.FREE, State.LOCKED, State.OUT_OF_SERVICE, State.EMERGENCY)
IN_TURN = (State.DECIDING, State.GRANTED, State.PASSING)


@dataclass
class Shell:
    """A shell in miniature: carries effects out as the real one does, releases first, in its own time."""

    rules: LaneRules
    lane: Lane = field(default_factory=Lane)
    now: float = 1000.0
    due: float | None = None
    released: bool = False
    releases: int = 0
    shown: Outcome = Outcome.READY
    decides: list[str] = field(default_factory=list)
    journal: list[tuple[str, Reason]] = field(default_factory=list)
    notes: list[tuple[int, Came]] = field(default_factory=list)
    alarms: list[AlarmKind] = field(default_factory=list)

    def feed(self, event: Event) -> Effects:
        self.lane, effects = step(self.lane, self.rules, event)
        for effect in sorted(effects, key=lambda each: not isinstance(each, Release)):
            match effect:
                case Release():
                    self.released = self.rules.profile is Profile.HOLD
                    self.releases += 1
                case Relock():
                    self.released = False
                case Show(outcome):
                    self.shown = outcome
                case Start(duration):
                    self.due = self.now + duration.total_seconds()
                case Stop():
                    self.due = None
                case Decide(_, barcode):
                    self.decides.append(barcode)
                case Journal(barcode, reason):
                    self.journal.append((barcode, reason))
                case Note(number, came):
                    self.notes.append((number, came))
                case Alarm(kind):
                    self.alarms.append(kind)
        return effects

    @property
    def state(self) -> State:
        return self.lane.state

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due is not None and self.due <= end:
            self.now, self.due = self.due, None
            self.feed(TimerEnded(self.now))
        self.now = end

    def read(self, barcode: str) -> Effects:
        return self.feed(BarcodeRead(barcode, self.now))

    def malformed(self) -> Effects:
        return self.feed(MalformedRead(self.now))

    def answer(self, verdict: Verdict, number: int | None = None) -> Effects:
        return self.feed(Decided(self.lane.number if number is None else number, verdict))

    def admit(self, barcode: str = "A") -> None:
        self.read(barcode)
        self.answer(ADMIT)

    def deny(self, barcode: str = "A") -> None:
        self.read(barcode)
        self.answer(DENY)

    def hold_still(self, barcode: str, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self.wait(0.25)
            self.read(barcode)

    def begin(self) -> None:
        self.feed(PassageBegan(self.now))

    def done(self) -> None:
        self.feed(PassageDone(self.now))

    def operator(self) -> None:
        self.feed(OperatorReleased())

    def command(self, mode: Mode) -> None:
        self.feed(ModeCommanded(mode))

    def lose(self) -> None:
        self.feed(ScannersLost())

    def find(self) -> None:
        self.feed(ScannersFound())

    def alarm(self) -> None:
        self.feed(EmergencyBegan())

    def reset(self) -> None:
        self.feed(EmergencyEnded())


def a_lane(
    *,
    profile: Profile = Profile.PULSE,
    sensors: Sensors = Sensors.NONE,
    opens_always: bool = False,
    proven: bool = False,
) -> Shell:
    """A lane that is ready; ``proven``: its sensor has just shown a passage."""
    direction = Direction.EXIT if opens_always else Direction.ENTRY
    shell = Shell(LaneRules(direction, profile, sensors, opens_always=opens_always))
    if proven:
        shell.lane = shell.lane._replace(sensor_proven=True)
    return shell


def an_exit(profile: Profile = Profile.PULSE, sensors: Sensors = Sensors.NONE) -> Shell:
    return a_lane(profile=profile, sensors=sensors, opens_always=True)


def in_state(state: State, shell: Shell) -> Shell:
    """Brings a ready lane into a state, as it would happen."""
    match state:
        case State.DECIDING:
            shell.read("S")
        case State.GRANTED:
            shell.operator()
        case State.PASSING:
            shell.operator()
            shell.begin()
        case State.DENIED:
            shell.malformed()
        case State.FREE:
            shell.command(Mode.FREE)
        case State.LOCKED:
            shell.command(Mode.LOCKED)
        case State.OUT_OF_SERVICE:
            shell.command(Mode.OUT_OF_SERVICE)
        case State.EMERGENCY:
            shell.alarm()
    assert shell.state is state
    return shell


# ---- the table


def test_every_state_answers_every_event() -> None:
    assert set(TABLE) == set(product(State, EVENTS))


@pytest.mark.parametrize("state", list(State))
def test_no_event_is_too_much_for_any_state_of_any_lane(state: State) -> None:
    events = [
        BarcodeRead("S", 1000.0),
        BarcodeRead("T", 1000.0),
        MalformedRead(1000.0),
        Decided(1, ADMIT),
        Decided(99, DENY),
        TimerEnded(1000.0),
        PassageBegan(1000.0),
        PassageDone(1000.0),
        OperatorReleased(),
        *map(ModeCommanded, Mode),
        ScannersLost(),
        ScannersFound(),
        EmergencyBegan(),
        EmergencyEnded(),
    ]
    assert {type(event) for event in events} == set(EVENTS)
    for rules, event in product(ALL_RULES, events):
        if not (rules.opens_always and state in (State.LOCKED, State.DENIED)):
            in_state(state, Shell(rules)).feed(event)


# ---- one guest


def test_an_admitted_guest_is_released_once_and_the_lane_is_ready_again() -> None:
    lane = a_lane()
    lane.admit()
    assert (lane.state, lane.releases, lane.shown) == (State.GRANTED, 1, Outcome.ADMIT)
    lane.wait(GRANT)
    assert (lane.state, lane.releases, lane.shown) == (State.READY, 1, Outcome.READY)


def test_a_denied_guest_sees_it_for_a_moment_and_nothing_is_released() -> None:
    lane = a_lane()
    lane.deny()
    assert (lane.state, lane.shown) == (State.DENIED, Outcome.DENY)
    lane.wait(SHOWN.total_seconds())
    assert (lane.state, lane.shown, lane.releases) == (State.READY, Outcome.READY, 0)


def test_what_is_no_barcode_is_journalled_and_denied() -> None:
    lane = a_lane()
    lane.malformed()
    assert (lane.state, lane.shown, lane.releases) == (State.DENIED, Outcome.SCAN_AGAIN, 0)
    assert lane.journal == [("", Reason.MALFORMED)]


def test_a_new_scan_ends_a_denial_early() -> None:
    lane = a_lane()
    lane.deny("A")
    lane.admit("B")
    assert (lane.state, lane.decides) == (State.GRANTED, ["A", "B"])


def test_a_decision_that_takes_too_long_asks_for_another_scan_and_raises_the_alarm() -> None:
    lane = a_lane()
    lane.read("A")
    lane.wait(PATIENCE.total_seconds())
    assert (lane.state, lane.shown, lane.alarms) == (
        State.DENIED,
        Outcome.SCAN_AGAIN,
        [AlarmKind.DECISION_LATE],
    )
    lane.hold_still("A", 0.5)
    assert lane.decides == ["A", "A"]


# ---- the same barcode again


def test_a_phone_held_still_through_grant_and_lapse_is_scanned_once_and_shown_no_denial() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    shown = set()
    for _ in range(40):
        lane.hold_still("A", 0.25)
        shown.add(lane.shown)
    assert lane.decides == ["A"]
    assert shown == {Outcome.ADMIT, Outcome.READY}


def test_a_denied_phone_held_still_is_scanned_once() -> None:
    lane = a_lane()
    lane.deny("A")
    lane.hold_still("A", 10)
    assert lane.decides == ["A"]


def test_a_barcode_that_was_out_of_sight_for_the_gap_is_decided_again() -> None:
    for gap, decides in ((0.9, ["A"]), (1.0, ["A", "A"])):
        lane = a_lane()
        lane.deny("A")
        lane.wait(gap)
        lane.read("A")
        assert lane.decides == decides


def test_the_granted_barcode_is_ignored_while_the_grant_stands_however_late_it_comes_back() -> None:
    lane = a_lane(sensors=Sensors.TWO)
    lane.admit("A")
    lane.wait(3)
    assert lane.read("A") == ()
    lane.begin()
    lane.wait(10)
    assert lane.read("A") == ()


def test_a_screen_with_two_tickets_read_in_turns_has_each_decided_once() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    for _ in range(8):
        lane.wait(0.25)
        lane.read("B")
        lane.read("A")
    lane.done()
    lane.answer(ADMIT)
    for _ in range(8):
        lane.wait(0.25)
        lane.read("A")
        lane.read("B")
    lane.done()
    lane.hold_still("A", 2)
    assert lane.decides == ["A", "B"]


def test_two_denied_barcodes_in_view_at_once_are_not_decided_over_and_over() -> None:
    lane = a_lane()
    for _ in range(20):
        lane.wait(0.25)
        for barcode in ("A", "B"):
            lane.read(barcode)
            if lane.state is State.DECIDING:
                lane.answer(DENY)
    assert lane.decides == ["A", "B"]


def test_a_denied_phone_still_in_view_while_an_operator_lets_its_guest_in_is_ignored() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.deny("A")
    lane.operator()
    lane.hold_still("A", 2)
    lane.done()
    assert (lane.decides, lane.state) == (["A"], State.READY)


# ---- one barcode waits


def test_with_a_sensor_the_next_guest_waits_undecided_and_is_decided_after_the_passage() -> None:
    lane = a_lane(sensors=Sensors.TWO)
    lane.admit("A")
    lane.begin()
    lane.read("B")
    assert (lane.decides, lane.shown) == (["A"], Outcome.PASSING)
    lane.done()
    assert (lane.decides, lane.state) == (["A", "B"], State.DECIDING)


def test_only_one_barcode_waits_and_a_third_guest_is_told_that_the_lane_is_busy() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.read("C")
    assert lane.shown is Outcome.BUSY
    lane.done()
    lane.answer(ADMIT)
    lane.done()
    assert lane.decides == ["A", "B"]


def test_a_lapse_drops_who_waits_unspent_and_says_scan_again() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.wait(GRANT)
    assert (lane.state, lane.shown) == (State.DENIED, Outcome.SCAN_AGAIN)
    assert (lane.decides, lane.journal) == (["A"], [("B", Reason.UNDECIDED)])
    lane.admit("B")
    assert lane.state is State.GRANTED


def test_a_stuck_passage_drops_who_waits_like_a_lapse() -> None:
    lane = a_lane(sensors=Sensors.TWO)
    lane.admit("A")
    lane.begin()
    lane.read("B")
    lane.wait(STUCK.total_seconds())
    assert (lane.shown, lane.decides) == (Outcome.SCAN_AGAIN, ["A"])


def test_a_denial_is_seen_before_who_waits_is_decided() -> None:
    lane = a_lane()
    lane.read("A")
    lane.read("B")
    lane.answer(DENY)
    assert (lane.shown, lane.decides) == (Outcome.DENY, ["A"])
    lane.wait(SHOWN.total_seconds())
    assert (lane.state, lane.decides) == (State.DECIDING, ["A", "B"])


def test_who_waits_and_is_read_again_is_decided_once() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.read("A")
    lane.read("B")
    lane.answer(DENY)
    lane.read("B")
    lane.answer(ADMIT)
    lane.done()
    assert (lane.decides, lane.state) == (["A", "B"], State.READY)


def test_a_denied_phone_that_waited_and_is_still_held_is_decided_once() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.hold_still("B", 3)
    lane.done()
    lane.answer(DENY)
    lane.hold_still("B", 3)
    assert lane.decides == ["A", "B"]


def test_without_a_sensor_the_lane_is_busy_until_the_grant_ends() -> None:
    lane = a_lane()
    lane.admit("A")
    lane.read("B")
    assert (lane.shown, lane.decides) == (Outcome.BUSY, ["A"])
    lane.wait(GRANT)
    assert (lane.state, lane.decides) == (State.READY, ["A"])
    lane.read("B")
    assert lane.decides == ["A", "B"]


def test_without_a_sensor_who_was_read_during_the_decision_is_dropped_by_the_grant() -> None:
    lane = a_lane()
    lane.read("A")
    lane.read("B")
    lane.answer(ADMIT)
    assert (lane.shown, lane.journal) == (Outcome.ADMIT, [("B", Reason.UNDECIDED)])


@pytest.mark.parametrize("mode", [Mode.LOCKED, Mode.OUT_OF_SERVICE])
def test_who_waits_at_a_lane_that_closes_is_journalled_undecided(mode: Mode) -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.command(mode)
    lane.done()
    assert (lane.decides, lane.journal) == (["A"], [("B", Reason.UNDECIDED)])


def test_who_waits_at_a_lane_that_becomes_free_is_decided() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.command(Mode.FREE)
    assert (lane.decides, lane.due) == (["A", "B"], None)


# ---- what came of a grant


def test_a_passage_takes_the_grant() -> None:
    for sensors in (Sensors.ONE, Sensors.TWO):
        lane = a_lane(sensors=sensors)
        lane.admit()
        lane.done()
        assert (lane.notes, lane.state) == ([(1, Came.TAKEN)], State.READY)


def test_without_a_sensor_nobody_knows() -> None:
    lane = a_lane()
    lane.admit()
    lane.wait(GRANT)
    assert lane.notes == [(1, Came.UNKNOWN)]


def test_a_lapse_is_not_taken_only_if_the_sensor_showed_a_passage_within_its_last_three_grants() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    passes = [False, True, False, False, False, False, True, False]
    for guest, taken in enumerate(passes):
        lane.admit(f"guest {guest}")
        if taken:
            lane.done()
        lane.wait(60)
    assert [came for _, came in lane.notes] == [
        Came.UNKNOWN,
        Came.TAKEN,
        Came.NOT_TAKEN,
        Came.NOT_TAKEN,
        Came.NOT_TAKEN,
        Came.UNKNOWN,
        Came.TAKEN,
        Came.NOT_TAKEN,
    ]


def test_many_grants_in_a_row_without_a_passage_suspect_the_sensor_once() -> None:
    for proven in (False, True):
        lane = a_lane(sensors=Sensors.ONE, proven=proven)
        for guest in range(2 * DOUBTFUL_SENSOR):
            assert lane.alarms == ([AlarmKind.SENSOR_DOUBTFUL] if guest >= DOUBTFUL_SENSOR else [])
            lane.admit(f"guest {guest}")
            lane.wait(60)


def test_a_lane_without_a_sensor_suspects_none() -> None:
    lane = a_lane()
    for guest in range(2 * DOUBTFUL_SENSOR):
        lane.admit(f"guest {guest}")
        lane.wait(60)
    assert lane.alarms == []


@pytest.mark.parametrize("proven", [True, False])
def test_a_movement_soon_after_a_lapse_belongs_to_its_grant(proven: bool) -> None:
    lane = a_lane(sensors=Sensors.ONE, proven=proven)
    lane.admit()
    lane.wait(GRANT + AFTER_LAPSE)
    lane.done()
    assert lane.notes == [(1, Came.NOT_TAKEN if proven else Came.UNKNOWN), (1, Came.TAKEN)]
    assert lane.alarms == []
    lane.done()
    assert lane.alarms == [AlarmKind.FORCED]


def test_a_passage_that_begins_soon_after_a_lapse_may_end_a_little_later() -> None:
    lane = a_lane(sensors=Sensors.TWO, proven=True)
    lane.admit()
    lane.wait(GRANT + 2.5)
    lane.begin()
    lane.wait(2)
    lane.done()
    assert (lane.notes[-1], lane.alarms) == ((1, Came.TAKEN), [])


def test_a_late_movement_while_the_next_guest_is_decided_on_belongs_to_the_one_before() -> None:
    lane = a_lane(sensors=Sensors.ONE, proven=True)
    lane.admit("A")
    lane.wait(GRANT + 1)
    lane.read("B")
    lane.done()
    assert lane.notes == [(1, Came.NOT_TAKEN), (1, Came.TAKEN)]
    lane.answer(ADMIT)
    lane.done()
    assert (lane.notes[-1], lane.alarms) == ((2, Came.TAKEN), [])


def test_once_the_next_grant_stands_a_second_movement_is_forced_and_no_second_passage() -> None:
    lane = a_lane(sensors=Sensors.ONE, proven=True)
    lane.admit("A")
    lane.wait(GRANT + 1)
    lane.admit("B")
    lane.done()
    lane.done()
    assert lane.notes == [(1, Came.NOT_TAKEN), (2, Came.TAKEN)]
    assert lane.alarms == [AlarmKind.FORCED]


@pytest.mark.parametrize(
    "state", [State.READY, State.DENIED, State.DECIDING, State.LOCKED, State.OUT_OF_SERVICE]
)
def test_a_movement_without_a_grant_is_forced(state: State) -> None:
    lane = in_state(state, a_lane(sensors=Sensors.TWO))
    lane.begin()
    lane.wait(AFTER_LAPSE + 1)
    lane.done()
    assert lane.alarms[:2] == [AlarmKind.FORCED, AlarmKind.FORCED]


@pytest.mark.parametrize("state", [State.FREE, State.EMERGENCY])
def test_in_free_and_in_an_emergency_everybody_may_move(state: State) -> None:
    lane = in_state(state, a_lane(sensors=Sensors.TWO))
    lane.begin()
    lane.done()
    assert lane.alarms == []


def test_a_passage_that_does_not_end_is_stuck() -> None:
    lane = a_lane(sensors=Sensors.TWO, proven=True)
    lane.admit()
    lane.begin()
    lane.wait(STUCK.total_seconds() - 0.1)
    assert (lane.state, lane.alarms) == (State.PASSING, [])
    lane.wait(0.1)
    assert (lane.state, lane.alarms) == (State.READY, [AlarmKind.STUCK])
    assert lane.notes == [(1, Came.UNKNOWN)]


# ---- a verdict that comes too late


@pytest.mark.parametrize("mode", [Mode.LOCKED, None])
def test_an_admission_that_comes_too_late_is_noted_not_taken_and_releases_nothing(mode: Mode | None) -> None:
    lane = a_lane()
    lane.read("A")
    if mode is None:
        lane.wait(60)
    else:
        lane.command(mode)
    lane.answer(ADMIT)
    assert (lane.releases, lane.notes) == (0, [(1, Came.NOT_TAKEN)])


def test_a_denial_that_comes_too_late_changes_nothing() -> None:
    lane = a_lane()
    lane.read("A")
    lane.wait(60)
    assert lane.answer(DENY) == ()


@pytest.mark.parametrize("late", [ADMIT, DENY])
def test_a_late_verdict_never_decides_anothers_turn(late: Verdict) -> None:
    lane = a_lane()
    lane.read("A")
    lane.wait(60)
    lane.read("B")
    lane.answer(late, number=1)
    assert (lane.state, lane.releases, lane.shown) == (State.DECIDING, 0, Outcome.DECIDING)
    lane.answer(ADMIT, number=2)
    lane.answer(ADMIT, number=1)
    assert (lane.state, lane.releases, lane.lane.granted) == (State.GRANTED, 1, 2)


def test_a_late_verdict_never_makes_an_operators_later_grant_a_tickets() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.read("A")
    lane.wait(60)
    lane.operator()
    lane.answer(ADMIT, number=1)
    lane.done()
    assert lane.notes == [(1, Came.NOT_TAKEN)]


# ---- a barrier that is held


def test_a_held_barrier_relocks_when_the_passage_begins_or_is_done_or_lapses() -> None:
    for sensors, end in (
        (Sensors.TWO, Shell.begin),
        (Sensors.TWO, Shell.done),
        (Sensors.ONE, Shell.done),
        (Sensors.TWO, lambda lane: lane.wait(GRANT)),
        (Sensors.NONE, lambda lane: lane.wait(GRANT)),
    ):
        lane = a_lane(profile=Profile.HOLD, sensors=sensors)
        lane.admit()
        lane.wait(GRANT - 0.1)
        assert lane.released
        end(lane)
        assert not lane.released


def test_a_held_barrier_that_is_locked_in_a_grant_relocks_at_once() -> None:
    lane = a_lane(profile=Profile.HOLD)
    lane.admit()
    lane.command(Mode.LOCKED)
    assert (lane.released, lane.state) == (False, State.LOCKED)


# ---- modes and their rank


def test_locked_outranks_free_and_the_operator() -> None:
    lane = in_state(State.LOCKED, a_lane())
    lane.operator()
    assert (lane.state, lane.releases, lane.alarms) == (State.LOCKED, 0, [AlarmKind.COMMAND_REFUSED])


def test_an_operator_outranks_out_of_service_and_a_ticket_does_not() -> None:
    lane = in_state(State.OUT_OF_SERVICE, a_lane())
    lane.read("A")
    assert (lane.releases, lane.decides, lane.journal) == (0, [], [("A", Reason.UNDECIDED)])
    lane.operator()
    assert (lane.state, lane.releases) == (State.GRANTED, 1)
    lane.wait(GRANT)
    assert lane.state is State.OUT_OF_SERVICE


@pytest.mark.parametrize("state", [State.LOCKED, State.OUT_OF_SERVICE, State.EMERGENCY])
def test_a_closed_lane_journals_each_scan_once_and_spends_nothing(state: State) -> None:
    lane = in_state(state, a_lane())
    lane.hold_still("A", 3)
    lane.malformed()
    assert (lane.decides, lane.journal) == ([], [("A", Reason.UNDECIDED), ("", Reason.MALFORMED)])
    assert (lane.state, lane.releases) == (state, 0)


@pytest.mark.parametrize(
    ("mode", "at_once", "afterwards"),
    [
        (Mode.CONTROLLED, State.GRANTED, State.READY),
        (Mode.OUT_OF_SERVICE, State.GRANTED, State.OUT_OF_SERVICE),
        (Mode.FREE, State.FREE, State.FREE),
        (Mode.LOCKED, State.LOCKED, State.LOCKED),
    ],
)
def test_locked_and_free_end_a_grant_and_other_modes_wait_for_its_end(
    mode: Mode, at_once: State, afterwards: State
) -> None:
    for end in (lambda lane: lane.wait(GRANT), Shell.done):
        lane = a_lane(sensors=Sensors.ONE)
        lane.admit()
        lane.command(mode)
        assert lane.state is at_once
        end(lane)
        assert lane.state is afterwards


@pytest.mark.parametrize(
    ("end", "believed"),
    [
        (lambda lane: lane.command(Mode.LOCKED), Came.NOT_TAKEN),
        (Shell.alarm, Came.NOT_TAKEN),
        (lambda lane: lane.command(Mode.FREE), Came.UNKNOWN),
    ],
)
def test_a_guest_whose_grant_is_cut_short_unseen_may_be_granted_again_but_not_where_he_passes_in_free(
    end, believed: Came
) -> None:
    for proven, came in ((True, believed), (False, Came.UNKNOWN)):
        lane = a_lane(sensors=Sensors.ONE, proven=proven)
        lane.admit()
        end(lane)
        assert lane.notes == [(1, came)]


@pytest.mark.parametrize("end", [lambda lane: lane.command(Mode.LOCKED), Shell.alarm])
def test_a_passage_that_is_cut_short_is_unknown(end) -> None:
    lane = a_lane(sensors=Sensors.TWO, proven=True)
    lane.admit()
    lane.begin()
    end(lane)
    assert lane.notes == [(1, Came.UNKNOWN)]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_commanded_during_a_decision_is_followed_after_it(mode: Mode) -> None:
    lane = a_lane()
    lane.read("A")
    lane.command(mode)
    lane.answer(DENY)
    lane.wait(60)
    assert lane.state is resting_state(lane.lane, lane.rules)
    assert lane.lane.mode is mode


# ---- free


def test_a_held_barrier_in_free_stays_released_whatever_is_read() -> None:
    lane = in_state(State.FREE, a_lane(profile=Profile.HOLD))
    lane.deny("A")
    assert (lane.released, lane.shown, lane.state) == (True, Outcome.DENY, State.FREE)
    lane.wait(60)
    assert (lane.released, lane.shown) == (True, Outcome.FREE)
    lane.command(Mode.CONTROLLED)
    assert (lane.released, lane.shown) == (False, Outcome.READY)


def test_a_pulse_barrier_in_free_is_pulsed_once_for_each_read() -> None:
    lane = in_state(State.FREE, a_lane())
    assert lane.releases == 0
    lane.deny("A")
    lane.admit("B")
    lane.malformed()
    lane.operator()
    assert lane.releases == 4
    lane.hold_still("A", 0)
    lane.read("A")
    assert lane.releases == 4


def test_two_decisions_in_flight_in_free_are_both_answered() -> None:
    lane = in_state(State.FREE, a_lane())
    lane.read("A")
    lane.read("B")
    lane.answer(DENY, number=1)
    assert (lane.releases, lane.shown) == (1, Outcome.DENY)
    lane.answer(ADMIT, number=2)
    assert (lane.releases, lane.shown, lane.notes) == (2, Outcome.ADMIT, [])


# ---- the operator


def test_an_operators_grant_is_no_tickets_and_notes_nothing() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.done()
    lane.operator()
    lane.done()
    assert lane.notes == [(1, Came.TAKEN)]


def test_an_operator_who_is_faster_than_the_verdict_lets_that_guest_in_on_his_ticket() -> None:
    lane = a_lane(profile=Profile.HOLD, sensors=Sensors.ONE)
    lane.read("A")
    lane.operator()
    assert (lane.released, lane.state, lane.shown) == (True, State.GRANTED, Outcome.ADMIT)
    lane.answer(ADMIT)
    lane.hold_still("A", 1)
    lane.done()
    assert (lane.notes, lane.releases, lane.decides) == ([(1, Came.TAKEN)], 1, ["A"])


def test_a_denial_after_the_operators_release_takes_nothing_back() -> None:
    lane = a_lane(profile=Profile.HOLD, sensors=Sensors.ONE)
    lane.read("A")
    lane.operator()
    lane.answer(DENY)
    assert (lane.released, lane.shown) == (True, Outcome.ADMIT)
    lane.wait(GRANT)
    assert (lane.released, lane.notes) == (False, [])


def test_an_operator_during_a_grant_releases_again_and_gives_the_guest_his_time_anew() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit()
    lane.wait(GRANT - 1)
    lane.operator()
    lane.wait(GRANT - 1)
    assert (lane.state, lane.releases) == (State.GRANTED, 2)
    lane.done()
    assert lane.notes == [(1, Came.TAKEN)]


def test_an_operator_frees_a_guest_in_the_middle_of_a_passage_without_crying_stuck() -> None:
    lane = a_lane(profile=Profile.HOLD, sensors=Sensors.TWO)
    lane.admit()
    lane.begin()
    lane.operator()
    assert (lane.released, lane.state) == (True, State.PASSING)
    lane.wait(STUCK.total_seconds() - 1)
    assert lane.alarms == []
    lane.begin()
    assert not lane.released
    lane.done()
    assert lane.notes == [(1, Came.TAKEN)]


def test_a_ticket_shown_after_an_operators_release_is_decided_even_if_it_was_the_last_guests() -> None:
    lane = a_lane(sensors=Sensors.ONE)
    lane.admit("A")
    lane.wait(60)
    lane.operator()
    lane.read("A")
    lane.done()
    assert lane.decides == ["A", "A"]


# ---- the emergency


@pytest.mark.parametrize("state", list(State))
def test_the_emergency_outranks_every_state_and_only_its_end_ends_it(state: State) -> None:
    lane = in_state(state, a_lane(profile=Profile.HOLD, sensors=Sensors.TWO))
    lane.alarm()
    assert (lane.state, lane.released, lane.shown) == (State.EMERGENCY, True, Outcome.EMERGENCY)
    for mode in Mode:
        lane.command(mode)
    lane.operator()
    lane.begin()
    lane.done()
    lane.lose()
    lane.find()
    lane.alarm()
    lane.wait(600)
    assert (lane.state, lane.released) == (State.EMERGENCY, True)
    lane.reset()
    assert (lane.state, lane.released) == (State.OUT_OF_SERVICE, False)


def test_a_pulse_barrier_is_left_to_the_turnstile_in_an_emergency() -> None:
    lane = a_lane()
    lane.alarm()
    lane.read("A")
    lane.malformed()
    lane.operator()
    assert (lane.releases, lane.state) == (0, State.EMERGENCY)


def test_a_verdict_that_comes_in_an_emergency_spends_nothing() -> None:
    lane = a_lane()
    lane.read("A")
    lane.alarm()
    lane.answer(ADMIT)
    assert (lane.state, lane.notes) == (State.EMERGENCY, [(1, Came.NOT_TAKEN)])


@pytest.mark.parametrize(
    ("mode", "state"),
    [
        (Mode.CONTROLLED, State.READY),
        (Mode.FREE, State.FREE),
        (Mode.LOCKED, State.LOCKED),
        (Mode.OUT_OF_SERVICE, State.OUT_OF_SERVICE),
    ],
)
def test_a_mode_commanded_in_an_emergency_is_remembered_for_its_end(mode: Mode, state: State) -> None:
    lane = in_state(State.EMERGENCY, a_lane())
    lane.command(mode)
    lane.reset()
    assert lane.state is state


# ---- exits that open always


@pytest.mark.parametrize("verdict", [ADMIT, DENY])
def test_every_read_releases_an_exit_that_opens_always(verdict: Verdict) -> None:
    lane = an_exit()
    lane.read("A")
    lane.answer(verdict)
    assert (lane.state, lane.releases, lane.shown) == (State.GRANTED, 1, Outcome.ADMIT)


@pytest.mark.parametrize("state", [State.READY, State.OUT_OF_SERVICE])
def test_an_exit_lets_out_who_shows_something_unreadable_out_of_service_too(state: State) -> None:
    lane = in_state(state, an_exit())
    lane.malformed()
    assert (lane.state, lane.releases) == (State.GRANTED, 1)
    lane.wait(GRANT)
    assert lane.state is state


def test_an_exit_out_of_service_lets_out_undecided_every_time_again() -> None:
    lane = in_state(State.OUT_OF_SERVICE, an_exit())
    lane.hold_still("A", 3 * GRANT)
    assert (lane.releases, lane.decides) == (3, [])
    assert lane.journal == [("A", Reason.UNDECIDED)]


def test_a_ticket_held_still_at_an_exit_is_decided_once_and_released_again_after_each_lapse() -> None:
    lane = an_exit()
    lane.deny("A")
    lane.hold_still("A", 2 * GRANT)
    assert (lane.decides, lane.releases) == (["A"], 3)


@pytest.mark.parametrize(
    "state", [State.READY, State.GRANTED, State.FREE, State.OUT_OF_SERVICE, State.EMERGENCY]
)
def test_an_exit_that_opens_always_can_not_be_locked(state: State) -> None:
    lane = in_state(state, an_exit())
    mode = lane.lane.mode
    lane.command(Mode.LOCKED)
    assert (lane.state, lane.lane.mode, lane.alarms) == (state, mode, [AlarmKind.COMMAND_REFUSED])


@pytest.mark.parametrize("mode", [Mode.CONTROLLED, Mode.OUT_OF_SERVICE])
def test_an_exit_without_a_scanner_is_free_until_it_is_found_out_of_service_too(mode: Mode) -> None:
    lane = an_exit(Profile.HOLD)
    lane.command(mode)
    lane.lose()
    assert (lane.state, lane.released) == (State.FREE, True)
    lane.find()
    assert (lane.state, lane.released) == (resting_state(lane.lane, lane.rules), False)


@pytest.mark.parametrize("state", IN_TURN)
def test_an_exit_that_loses_its_scanner_in_somebodys_turn_is_free_at_once(state: State) -> None:
    lane = in_state(state, an_exit(Profile.HOLD, Sensors.TWO))
    lane.lose()
    assert (lane.state, lane.released) == (State.FREE, True)


def test_an_entry_that_loses_its_scanner_in_a_grant_finishes_it_and_lets_nobody_else_in() -> None:
    lane = a_lane(profile=Profile.HOLD, sensors=Sensors.ONE)
    lane.admit()
    lane.lose()
    assert (lane.state, lane.released) == (State.GRANTED, True)
    lane.done()
    assert (lane.state, lane.released, lane.lane.scanners_lost) == (State.READY, False, True)


def test_a_slow_decision_keeps_nobody_in_and_its_verdict_still_counts() -> None:
    lane = an_exit(sensors=Sensors.ONE)
    lane.read("A")
    lane.wait(EXIT_PATIENCE.total_seconds())
    assert (lane.state, lane.releases) == (State.GRANTED, 1)
    lane.answer(ADMIT)
    lane.done()
    assert lane.notes == [(1, Came.TAKEN)]


def test_without_a_sensor_the_next_guest_at_an_exit_need_not_wait() -> None:
    lane = an_exit()
    lane.admit("A")
    lane.wait(2)
    lane.deny("B")
    assert (lane.releases, lane.state, lane.notes) == (2, State.GRANTED, [(1, Came.UNKNOWN)])


def test_guests_read_while_another_is_decided_at_an_exit_all_get_out() -> None:
    lane = an_exit()
    lane.read("A")
    lane.read("B")
    lane.answer(ADMIT)
    lane.read("C")
    lane.answer(ADMIT)
    lane.wait(GRANT)
    lane.answer(ADMIT)
    assert (lane.decides, lane.releases) == (["A", "B", "C"], 3)


def test_a_lapse_at_an_exit_drops_nobody_who_waits() -> None:
    lane = an_exit(sensors=Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.wait(GRANT)
    lane.answer(DENY)
    assert (lane.decides, lane.releases) == (["A", "B"], 2)


def test_who_waits_at_an_exit_that_goes_out_of_service_is_let_out_undecided() -> None:
    lane = an_exit(Profile.HOLD, Sensors.ONE)
    lane.admit("A")
    lane.read("B")
    lane.command(Mode.OUT_OF_SERVICE)
    lane.done()
    assert (lane.state, lane.released, lane.journal) == (State.GRANTED, True, [("B", Reason.UNDECIDED)])


def test_who_turns_back_in_an_exit_and_shows_something_again_is_not_kept_in() -> None:
    for show in (lambda lane: lane.read("A"), lambda lane: lane.read("B"), Shell.malformed):
        lane = an_exit(Profile.HOLD, Sensors.TWO)
        lane.admit("A")
        lane.begin()
        lane.wait(3)
        assert not lane.released
        show(lane)
        assert lane.released


def test_a_third_guest_in_the_passage_of_an_exit_is_told_to_wait_and_kept_in_no_more() -> None:
    lane = an_exit(Profile.HOLD, Sensors.TWO)
    lane.admit("A")
    lane.read("B")
    lane.begin()
    lane.read("C")
    assert (lane.released, lane.shown) == (True, Outcome.BUSY)


def test_a_good_read_after_an_unreadable_one_is_decided_even_if_it_was_the_last_guests() -> None:
    lane = an_exit(sensors=Sensors.ONE)
    lane.admit("A")
    lane.done()
    lane.wait(60)
    lane.malformed()
    lane.read("A")
    lane.done()
    assert lane.decides == ["A", "A"]


def test_a_lost_scanner_shows_when_the_lane_is_at_rest() -> None:
    lane = a_lane()
    lane.deny()
    lane.lose()
    assert lane.shown is Outcome.DENY
    lane.wait(SHOWN.total_seconds())
    assert (lane.state, lane.lane.scanners_lost) == (State.READY, True)


# ---- invariants, whatever happens

BARCODES = st.sampled_from(["A", "B", "C"])
VERDICTS = st.sampled_from(
    [ADMIT, admit(100, Reason.REGRANT), DENY, deny(None, Reason.BUSY), deny(None, Reason.FAULT)]
)
SECONDS = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0, 2.0, 3.0, 5.0, 15.0, 30.0])


class Anything(RuleBasedStateMachine):
    """A lane to which anything happens, each decision being answered at most once."""

    @initialize(rules=st.sampled_from(ALL_RULES))
    def build(self, rules: LaneRules) -> None:
        self.shell = CheckedShell(rules)

    @rule(barcode=BARCODES, pause=SECONDS)
    def somebody_scans(self, barcode: str, pause: float) -> None:
        self.shell.read(barcode)
        self.shell.wait(pause)

    @rule(barcode=BARCODES, seconds=st.sampled_from([1.0, 6.0]))
    def somebody_holds_still(self, barcode: str, seconds: float) -> None:
        self.shell.hold_still(barcode, seconds)

    @rule(verdict=VERDICTS)
    def somebody_scans_and_is_decided(self, verdict: Verdict) -> None:
        self.shell.read("A")
        if self.shell.lane.number in self.shell.asked:
            self.shell.answer(verdict)

    @precondition(lambda self: self.shell.asked)
    @rule(verdict=VERDICTS, which=st.integers(0, 9))
    def a_verdict_comes(self, verdict: Verdict, which: int) -> None:
        numbers = sorted(self.shell.asked)
        self.shell.answer(verdict, number=numbers[which % len(numbers)])

    @precondition(lambda self: self.shell.rules.sensors is not Sensors.NONE)
    @rule()
    def somebody_is_through(self) -> None:
        self.shell.done()

    @precondition(lambda self: self.shell.rules.sensors is Sensors.TWO)
    @rule()
    def somebody_goes_in(self) -> None:
        self.shell.begin()

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.shell.wait(seconds)

    @rule(mode=st.sampled_from(Mode))
    def a_mode_is_commanded(self, mode: Mode) -> None:
        self.shell.command(mode)

    @rule(
        event=st.sampled_from(
            [OperatorReleased(), ScannersLost(), ScannersFound(), EmergencyBegan(), EmergencyEnded()]
        )
    )
    def something_happens(self, event: Event) -> None:
        self.shell.feed(event)

    @rule()
    def something_unreadable_is_shown(self) -> None:
        self.shell.malformed()


@dataclass
class CheckedShell(Shell):
    """Checks each step against what must hold for every one."""

    asked: dict[int, str] = field(default_factory=dict)  # decisions without an answer
    of_number: dict[int, str] = field(default_factory=dict)
    admitted: set[int] = field(default_factory=set)  # outside of free
    came: dict[int, list[Came]] = field(default_factory=dict)
    last_read: dict[str, float] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)  # decided on, and in sight ever since
    reopened: bool = False  # since the passage began

    def feed(self, event: Event) -> Effects:
        before = self.lane
        if isinstance(event, BarcodeRead):
            self.look(before, event)
        if isinstance(event, Decided):
            self.asked.pop(event.number)
            if event.verdict.admitted and before.state is not State.FREE:
                self.admitted.add(event.number)
        effects = super().feed(event)
        for check in (
            self.check_releases,
            self.check_rank,
            self.check_reads,
            self.check_exit,
            self.check_decisions,
        ):
            check(before, event, effects)
        self.check_barrier(before, event, effects)
        self.check_timer()
        self.check_notes(effects)
        return effects

    def look(self, before: Lane, event: BarcodeRead) -> None:
        gap = event.at - self.last_read.get(event.barcode, float("-inf"))
        its_turn = before.state in IN_TURN and before.barcode == event.barcode
        if gap >= self.rules.repeat_gap.total_seconds() and not its_turn:
            self.answered.discard(event.barcode)
        self.last_read[event.barcode] = event.at

    def check_releases(self, before: Lane, event: Event, effects: Effects) -> None:
        """Nothing is released but for a cause, and no step wants both."""
        if Release() not in effects:
            return
        assert Relock() not in effects
        if self.rules.profile is Profile.HOLD and self.state in (State.FREE, State.EMERGENCY):
            return
        assert self.state is not State.EMERGENCY
        match event:
            case Decided(number, verdict):
                its_turn = before.state is State.DECIDING and number == before.number
                assert before.state is State.FREE or (
                    its_turn and (verdict.admitted or self.rules.opens_always)
                )
            case OperatorReleased():
                assert before.state not in (State.LOCKED, State.EMERGENCY)
            case BarcodeRead() | MalformedRead():
                assert self.rules.opens_always or self.state is State.FREE
            case _:
                assert self.rules.opens_always
                assert before.state is State.DECIDING or before.waiting is not None

    def check_barrier(self, before: Lane, event: Event, effects: Effects) -> None:
        """A barrier that is held is released while somebody may pass, and at no other time."""
        still_passing = self.state is State.PASSING and before.state is State.PASSING
        if not still_passing or isinstance(event, PassageBegan):
            self.reopened = False
        elif Release() in effects:
            assert isinstance(event, OperatorReleased) or self.rules.opens_always
            self.reopened = True
        if self.rules.profile is Profile.HOLD:
            open_ = self.state in (State.GRANTED, State.FREE, State.EMERGENCY) or self.reopened
            assert self.released == open_

    def check_rank(self, before: Lane, event: Event, effects: Effects) -> None:
        if before.state is State.EMERGENCY:
            assert (self.state is not State.EMERGENCY) == isinstance(event, EmergencyEnded)
        if isinstance(event, EmergencyBegan):
            assert self.state is State.EMERGENCY
        resting = resting_state(self.lane, self.rules)
        if self.state in AT_REST:
            assert self.state is resting
        else:
            assert resting in (State.READY, State.OUT_OF_SERVICE)
        if isinstance(event, ModeCommanded):
            refused = event.mode is Mode.LOCKED and self.rules.opens_always
            assert self.lane.mode is (before.mode if refused else event.mode)

    def check_reads(self, before: Lane, event: Event, effects: Effects) -> None:
        """No read is lost: it is decided, journalled, waits, is told to, or is one held still."""
        if self.state in AT_REST:
            assert self.lane.waiting is None
        fates = {each.barcode for each in effects if isinstance(each, Decide | Journal)}
        waits = self.lane.waiting.barcode if self.lane.waiting else None
        if before.waiting is not None:
            assert before.waiting.barcode in {waits, *fates}
        if not isinstance(event, BarcodeRead):
            return
        granted = before.state in (State.GRANTED, State.PASSING) and before.granted is not None
        if granted and self.of_number[before.granted] == event.barcode:
            assert not any(isinstance(each, Show | Decide) for each in effects)
        told = Show(Outcome.BUSY) in effects
        assert told or event.barcode in {waits, *fates, before.barcode} or self.held_still(before, event)

    def held_still(self, before: Lane, event: BarcodeRead) -> bool:
        return any(barcode == event.barcode for barcode, _ in before.in_sight)

    def check_exit(self, before: Lane, event: Event, effects: Effects) -> None:
        """At an exit that opens always every read is released, at once or when it has been decided on."""
        if not self.rules.opens_always:
            return
        assert self.state not in (State.LOCKED, State.DENIED)
        let_out = Release() in effects or self.state in (State.GRANTED, State.PASSING) or self.released
        if isinstance(event, BarcodeRead | MalformedRead) and self.state is not State.EMERGENCY:
            assert (
                let_out or self.state is State.DECIDING or any(isinstance(each, Decide) for each in effects)
            )
        ends = isinstance(event, TimerEnded) or (isinstance(event, Decided) and event.number == before.number)
        if before.state is State.DECIDING and ends:
            assert let_out

    def check_decisions(self, before: Lane, event: Event, effects: Effects) -> None:
        """A barcode in sight is decided on once, and only where tickets count."""
        if Alarm(AlarmKind.DECISION_LATE) in effects and not self.rules.opens_always:
            self.answered.clear()
        decides = [each for each in effects if isinstance(each, Decide)]
        assert len(decides) <= 1
        for decide in decides:
            assert self.state in (State.DECIDING, State.FREE)
            assert decide.number not in self.of_number
            assert decide.barcode not in self.answered
            self.answered.add(decide.barcode)
            self.asked[decide.number] = self.of_number[decide.number] = decide.barcode

    def check_timer(self) -> None:
        """A lane that waits for something has a time-out, and one at rest has none."""
        if self.state is not State.FREE:  # there a verdict is shown for a moment
            assert (self.due is None) == (self.state in AT_REST)

    def check_notes(self, effects: Effects) -> None:
        """Each admission is noted once, when its grant ends; a late movement alone corrects that."""
        for note in effects:
            if isinstance(note, Note):
                self.came.setdefault(note.number, []).append(note.came)
        for number, came in self.came.items():
            assert number in self.admitted
            assert len(came) == 1 or (len(came) == 2 and came[0] is not Came.TAKEN and came[1] is Came.TAKEN)
        standing = {self.lane.granted} if self.state in (State.GRANTED, State.PASSING) else set()
        assert self.admitted - self.came.keys() <= standing


def test_whatever_happens_to_a_lane_its_rules_hold() -> None:
    run_state_machine_as_test(
        Anything, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
