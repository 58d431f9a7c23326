"""What a lane does: a table of ``(state, event) -> (state, effects)``.

Rules that hold in it:

- Rank: emergency > locked > free > operator's release > out of service > ticket. What ranks lower changes
  nothing while something higher stands.
- A barrier is released by a grant, an operator, ``free`` or the emergency, and by nothing else. No step
  releases and relocks.
- An exit that opens always can't be locked, is free while its scanner is lost, and is released by every read.
- A ticket is decided once for one presentation: the same barcode read again while its grant stands, or before
  it has been out of sight for a while, is the scanner or a phone held still.
- What came of an admission is noted once, but for a late movement: it turns a lapse into a passage.

Effects are values; the shell in :mod:`gated.lane` carries them out. A pair that is not in the table is an
error of this module: a test asks for every one.

What controllers do, and the numbers below, is from the manuals of turnstiles by PERCo (TTR-04CW, ST-01),
Magnetic (mTripod, mHTM) and TISO.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

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
from gated.core.signals import Outcome, outcome_of
from gated.core.verdict import Reason

# How long a denial or another short message stays. PERCo and others: 1 to 2 s.
SHOWN = timedelta(seconds=2)
# How long a decision may take before the lane stops waiting for it; a direct call ends well before.
PATIENCE = timedelta(seconds=15)
# The same at an exit that opens whatever the verdict: a slow disk or network must not keep anybody in.
EXIT_PATIENCE = timedelta(seconds=2)
# A movement this soon after a lapse belongs to that grant (PERCo blanks its alarm for 3 s after locking).
AFTER_LAPSE = 3.0
# A passage that does not end is stuck (PERCo TTR-04CW).
STUCK = timedelta(seconds=30)
# So many grants in a row without a passage, and the sensor itself is in doubt.
DOUBTFUL_SENSOR = 5
# A sensor is believed when it says "nobody passed" if it showed a passage within this many grants before.
BELIEVED_WITHIN = 3


# What each decision begins with, made once.
_ONE_MOMENT, _PATIENCE, _EXITS_PATIENCE = Show(Outcome.DECIDING), Start(PATIENCE), Start(EXIT_PATIENCE)

InSight = tuple[tuple[str, float], ...]
Step = tuple[Lane, Effects]
Transition = Callable[[Lane, LaneRules, Any], Step]


def step(lane: Lane, rules: LaneRules, event: Event) -> Step:
    """What an event does to a lane. A pair that the table lacks is a KeyError."""
    return TABLE[lane.state, type(event)](lane, rules, event)


def resting_state(lane: Lane, rules: LaneRules) -> State:
    """The state of a lane in which nobody is doing anything, by rank."""
    if lane.emergency:
        return State.EMERGENCY
    if lane.mode is Mode.LOCKED:
        return State.LOCKED
    if lane.mode is Mode.FREE or (lane.scanners_lost and rules.opens_always):
        return State.FREE
    if lane.mode is Mode.OUT_OF_SERVICE:
        return State.OUT_OF_SERVICE
    return State.READY


_AT_REST = {
    State.READY: Outcome.READY,
    State.FREE: Outcome.FREE,
    State.LOCKED: Outcome.LOCKED,
    State.OUT_OF_SERVICE: Outcome.OUT_OF_SERVICE,
    State.EMERGENCY: Outcome.EMERGENCY,
}


def _rest(lane: Lane, rules: LaneRules) -> Step:
    """Goes to the resting state, and turns to the read that waits, if any."""
    state, waiting = resting_state(lane, rules), lane.waiting
    lane = lane._replace(state=state, waiting=None)
    at_rest: Effects = (Stop(), Show(_AT_REST[state]))
    barrier = _barrier_at_rest(state, rules)
    if waiting is None:
        return lane, (*barrier, *at_rest)
    turn_to = _decide if state in (State.READY, State.FREE) else _read_undecided
    lane, effects = turn_to(lane, rules, waiting)
    if lane.state is State.GRANTED:  # let out, without a decision
        return lane, effects
    if lane.state is State.DECIDING:
        return lane, (*barrier, *effects)
    return lane, (*barrier, *at_rest, *effects)


def _then(effects: Effects, step_: Step) -> Step:
    """A step whose effects come after others."""
    return step_[0], (*effects, *step_[1])


def _barrier_at_rest(state: State, rules: LaneRules) -> Effects:
    """A barrier that is held stays released in ``free`` and in an emergency.

    A pulse barrier can't be held: in ``free`` each read pulses it, in an emergency its own wired input does.
    A pulse that has not ended is ended, or the next one would be no second pulse to the turnstile; but not by
    ``free``, which takes nothing from the guest who was just let through: cut short, it may be none at all.
    """
    if rules.profile is Profile.HOLD and state in (State.FREE, State.EMERGENCY):
        return (Release(),)
    return () if state is State.FREE else (Relock(),)


def _decide(lane: Lane, rules: LaneRules, read: BarcodeRead, in_sight: InSight | None = None) -> Step:
    """``in_sight``, where it is not the lane's, is what :func:`_look` has found."""
    seen = lane.in_sight if in_sight is None else in_sight
    lane = lane._replace(
        state=State.FREE if lane.state is State.FREE else State.DECIDING,
        barcode=read.barcode,
        in_sight=(*seen, (read.barcode, read.at)),
        number=lane.number + 1,
        waiting=None if _waits(lane, read.barcode) else lane.waiting,
    )
    if lane.state is State.FREE:
        return lane, (Decide(lane.number, read.barcode),)
    patience = _EXITS_PATIENCE if rules.opens_always else _PATIENCE
    # The decision last: while anything else is done first, the thread that takes it would have to wait.
    return lane, (_ONE_MOMENT, patience, Decide(lane.number, read.barcode))


def _turn(lane: Lane, barcode: str) -> Lane:
    """The next turn begins: what was asked for the one before comes too late."""
    return lane._replace(barcode=barcode, number=lane.number + 1)


# Reads


def _look(lane: Lane, rules: LaneRules, event: BarcodeRead) -> tuple[InSight, bool]:
    """What is in sight now; whether this barcode has had its answer and has not been out of sight since."""
    oldest = event.at - rules.repeat_gap.total_seconds()
    in_sight = {barcode: at for barcode, at in lane.in_sight if at > oldest}
    held_still = event.barcode in in_sight
    if held_still:
        in_sight[event.barcode] = event.at
    return tuple(in_sight.items()), held_still


def _looked(lane: Lane, rules: LaneRules, event: BarcodeRead) -> tuple[Lane, bool]:
    """As :func:`_look`, and the lane as it is now."""
    in_sight, held_still = _look(lane, rules, event)
    return lane._replace(in_sight=in_sight), held_still


def _sighted(lane: Lane, read: BarcodeRead) -> Lane:
    """From now on this barcode is held still."""
    return lane._replace(in_sight=(*lane.in_sight, (read.barcode, read.at)))


def _waits(lane: Lane, barcode: str) -> bool:
    return lane.waiting is not None and lane.waiting.barcode == barcode


def _read(lane: Lane, rules: LaneRules, event: BarcodeRead) -> Step:
    """Decided; a barcode held still is not, but an exit that opens always lets go at each read."""
    in_sight, held_still = _look(lane, rules, event)
    if not held_still:
        return _decide(lane, rules, event, in_sight)
    lane = lane._replace(in_sight=in_sight)
    if rules.opens_always:
        return _grant(_turn(lane, event.barcode), rules, Outcome.ADMIT, granted=None)
    return lane, ()


def _read_in_free(lane: Lane, rules: LaneRules, event: BarcodeRead) -> Step:
    """Decided for the record; an exit that opens always, told by pulses, lets go at each read."""
    lane, held_still = _looked(lane, rules, event)
    if not held_still:
        return _decide(lane, rules, event)
    return lane, _pulse_in_free(rules) if rules.opens_always else ()


def _read_in_turn(lane: Lane, rules: LaneRules, event: BarcodeRead) -> Step:
    """A read while another is decided on, or its guest passes: it waits, or is told to."""
    lane, held_still = _looked(lane, rules, event)
    if held_still:
        return lane, ()
    if event.barcode == lane.barcode:
        return _sighted(lane, event), _reopen(lane, rules)
    if rules.sensors is Sensors.NONE and lane.state is State.GRANTED and rules.opens_always:
        return _next_out(lane, rules, event)
    if lane.waiting is None and (rules.sensors is not Sensors.NONE or lane.state is State.DECIDING):
        return lane._replace(waiting=event), _reopen(lane, rules)
    if _waits(lane, event.barcode):
        return lane._replace(waiting=event), ()
    return lane, (*_reopen(lane, rules), Show(Outcome.BUSY))


def _next_out(lane: Lane, rules: LaneRules, event: BarcodeRead) -> Step:
    """Nobody can see whether the guest before has left: the next one need not wait to be let out."""
    first = lane.waiting or event
    lane, effects = _then(_note(lane, Came.UNKNOWN), _rest(lane._replace(waiting=first), rules))
    return lane._replace(waiting=None if first.barcode == event.barcode else event), effects


def _reopen(lane: Lane, rules: LaneRules) -> Effects:
    """Who turned back in the middle of an exit, and shows something again, is not kept in."""
    return (Release(),) if rules.opens_always and lane.state is State.PASSING else ()


def _read_undecided(lane: Lane, rules: LaneRules, event: BarcodeRead) -> Step:
    """A read while the lane takes no tickets: it spends nothing."""
    lane, held_still = _looked(lane, rules, event)
    if held_still:
        return _let_out(lane, rules, event.barcode, ())
    return _let_out(_sighted(lane, event), rules, event.barcode, (Journal(event.barcode, Reason.UNDECIDED),))


def _let_out(lane: Lane, rules: LaneRules, barcode: str, effects: Effects) -> Step:
    """An exit that opens always lets out whoever shows anything, out of service too."""
    if not rules.opens_always or lane.state is State.EMERGENCY:
        return lane, effects
    return _then(effects, _grant(_turn(lane, barcode), rules, Outcome.ADMIT, granted=None))


def _malformed(lane: Lane, rules: LaneRules, _: MalformedRead) -> Step:
    """No barcode: "scan again"; an exit that opens always lets go."""
    journal = Journal("", Reason.MALFORMED)
    if rules.opens_always:
        return _let_out(lane, rules, "", (journal,))
    return lane._replace(state=State.DENIED), (journal, Show(Outcome.SCAN_AGAIN), Start(SHOWN))


def _malformed_in_free(lane: Lane, rules: LaneRules, _: MalformedRead) -> Step:
    """No barcode: "scan again"; a barrier told by pulses lets go."""
    return lane, (
        Journal("", Reason.MALFORMED),
        *_pulse_in_free(rules),
        Show(Outcome.SCAN_AGAIN),
        Start(SHOWN),
    )


def _malformed_undecided(lane: Lane, rules: LaneRules, _: MalformedRead) -> Step:
    """Journalled; an exit that opens always lets go, but in an emergency."""
    return _let_out(lane, rules, "", (Journal("", Reason.MALFORMED),))


def _malformed_in_turn(lane: Lane, rules: LaneRules, _: MalformedRead) -> Step:
    """Somebody else's turn: noted, and no reason to disturb it."""
    return lane, (Journal("", Reason.MALFORMED), *_reopen(lane, rules))


# Verdicts


def _grant(
    lane: Lane, rules: LaneRules, outcome: Outcome, *, granted: int | None, ticket_type: str = ""
) -> Step:
    """Lets somebody pass. Without a sensor nobody waits meanwhile, but at an exit that opens always."""
    dropped: Effects = ()
    if rules.sensors is Sensors.NONE and not rules.opens_always:
        lane, dropped = _drop_waiting(lane)
    lane = lane._replace(state=State.GRANTED, granted=granted, lapsed_at=float("-inf"))
    return lane, (Release(), Show(outcome, ticket_type), Start(rules.grant), *dropped)


def _drop_waiting(lane: Lane) -> Step:
    """The read that waits is written down as what it is: read, and not decided on."""
    if lane.waiting is None:
        return lane, ()
    return lane._replace(waiting=None), (Journal(lane.waiting.barcode, Reason.UNDECIDED),)


def _verdict(lane: Lane, rules: LaneRules, event: Decided) -> Step:
    """ADMIT grants, DENY is shown; an exit that opens always grants in any case."""
    if event.number != lane.number:
        return _verdict_too_late(lane, rules, event)
    outcome = outcome_of(event.verdict, look=event.look)
    if event.verdict.admitted:
        return _grant(lane, rules, outcome, granted=event.number, ticket_type=event.ticket_type)
    if rules.opens_always:
        return _grant(lane, rules, Outcome.ADMIT, granted=None)
    return lane._replace(state=State.DENIED), (Show(outcome), Start(SHOWN))


def _verdict_in_turn(lane: Lane, rules: LaneRules, event: Decided) -> Step:
    """An operator, or an exit's patience, let the guest pass before the verdict came: it is his ticket's."""
    if event.number == lane.number and event.verdict.admitted and lane.granted is None:
        return lane._replace(granted=event.number), ()
    return _verdict_too_late(lane, rules, event)


def _verdict_in_free(lane: Lane, rules: LaneRules, event: Decided) -> Step:
    """In ``free`` a DENY only lights a lamp."""
    outcome = outcome_of(event.verdict, look=event.look)
    return lane, (*_pulse_in_free(rules), Show(outcome, event.ticket_type), Start(SHOWN))


def _pulse_in_free(rules: LaneRules) -> Effects:
    return (Release(),) if rules.profile is Profile.PULSE else ()


def _verdict_too_late(lane: Lane, _: LaneRules, event: Decided) -> Step:
    """The lane has turned to something else meanwhile; the verdict stands in the journal.

    An admitted guest could not go in: the ticket is granted again if the grant is noted as not taken.
    """
    return lane, ((Note(event.number, Came.NOT_TAKEN),) if event.verdict.admitted else ())


def _decision_late(lane: Lane, rules: LaneRules, _: TimerEnded) -> Step:
    """The decision took too long: alarm and "scan again"; an exit that opens always lets go."""
    alarm = Alarm(AlarmKind.DECISION_LATE)
    if rules.opens_always:
        return _then((alarm,), _grant(lane, rules, Outcome.ADMIT, granted=None))
    # Out of sight, so that the guest need not take the ticket away to have it decided on again.
    lane, dropped = _drop_waiting(lane._replace(state=State.DENIED, in_sight=()))
    return lane, (alarm, *dropped, Show(Outcome.SCAN_AGAIN), Start(SHOWN))


# The end of a grant


def _note(lane: Lane, came: Came) -> Effects:
    """What came of the standing grant, if it is a ticket's."""
    return () if lane.granted is None else (Note(lane.granted, came),)


def _unseen(lane: Lane) -> Came:
    """What came of a grant in which the sensor saw nobody pass, if it is to be believed."""
    believed = lane.sensor_proven and lane.without_passage < BELIEVED_WITHIN
    return Came.NOT_TAKEN if believed else Came.UNKNOWN


def _lapsed(lane: Lane, rules: LaneRules, event: TimerEnded) -> Step:
    """Nobody was seen to pass: the grant lapses."""
    if rules.sensors is Sensors.NONE:
        return _then(_note(lane, Came.UNKNOWN), _rest(lane, rules))
    ended = _note(lane, _unseen(lane))
    lane = lane._replace(without_passage=lane.without_passage + 1, lapsed_at=event.at)
    if lane.without_passage == DOUBTFUL_SENSOR:
        ended += (Alarm(AlarmKind.SENSOR_DOUBTFUL),)
    return _then(ended, _ended_unseen(lane, rules))


def _ended_unseen(lane: Lane, rules: LaneRules) -> Step:
    """Nobody was seen to pass: whoever waits may stand behind a guest who still does, or be gone."""
    if lane.waiting is None or rules.opens_always:
        return _rest(lane, rules)
    lane, dropped = _drop_waiting(lane)
    lane, effects = _then(dropped, _rest(lane, rules))
    if lane.state is not State.READY:
        return lane, effects
    return lane._replace(state=State.DENIED), (*effects, Show(Outcome.SCAN_AGAIN), Start(SHOWN))


def _relock_if_held(rules: LaneRules) -> Effects:
    return (Relock(),) if rules.profile is Profile.HOLD else ()


def _began(lane: Lane, rules: LaneRules, _: PassageBegan) -> Step:
    """The guest goes in: a barrier that is held relocks now, or a second person fits in."""
    lane = lane._replace(state=State.PASSING)
    return lane, (*_relock_if_held(rules), Show(Outcome.PASSING), Start(STUCK))


def _began_again(lane: Lane, rules: LaneRules, _: PassageBegan) -> Step:
    """Somebody follows: an operator may have released the barrier anew for him."""
    return lane, _relock_if_held(rules)


def _done(lane: Lane, rules: LaneRules, _: PassageDone) -> Step:
    """The guest has passed: the lane is ready for the next."""
    note = _note(lane, Came.TAKEN)
    return _then(note, _rest(lane._replace(without_passage=0, sensor_proven=True), rules))


def _stuck(lane: Lane, rules: LaneRules, _: TimerEnded) -> Step:
    """A passage that does not end: alarm."""
    return _then((*_note(lane, Came.UNKNOWN), Alarm(AlarmKind.STUCK)), _ended_unseen(lane, rules))


def _moved(lane: Lane, _: LaneRules, event: PassageBegan | PassageDone) -> Step:
    """A movement without a grant: forced, but for one that still belongs to the grant before."""
    if event.at - lane.lapsed_at > AFTER_LAPSE:
        return lane, (Alarm(AlarmKind.FORCED),)
    if isinstance(event, PassageBegan):
        return lane._replace(lapsed_at=event.at), ()
    note = _note(lane, Came.TAKEN)
    return lane._replace(lapsed_at=float("-inf"), without_passage=0, sensor_proven=True), note


def _moved_in_free(lane: Lane, _: LaneRules, __: PassageBegan | PassageDone) -> Step:
    """Everybody may pass."""
    return lane, ()


def _shown(lane: Lane, rules: LaneRules, _: TimerEnded) -> Step:
    """What was shown has been seen: back to rest."""
    return _rest(lane, rules)


def _shown_in_free(lane: Lane, _: LaneRules, __: TimerEnded) -> Step:
    """Back to "please pass"."""
    return lane, (Show(Outcome.FREE),)


# Commands


def _operator(lane: Lane, rules: LaneRules, _: OperatorReleased) -> Step:
    """Releases the barrier for one guest."""
    return _grant(_turn(lane, ""), rules, Outcome.ADMIT, granted=None)


def _operator_while_deciding(lane: Lane, rules: LaneRules, _: OperatorReleased) -> Step:
    """The operator is faster than the verdict, and outranks it: releases the barrier."""
    return _grant(lane, rules, Outcome.ADMIT, granted=None)


def _operator_during_grant(lane: Lane, rules: LaneRules, _: OperatorReleased) -> Step:
    """Releases the barrier again, and the grant begins anew."""
    return lane, (Release(), Start(rules.grant))


def _operator_during_passage(lane: Lane, _: LaneRules, __: OperatorReleased) -> Step:
    """Releases the barrier for one more guest."""
    return lane, (Release(), Start(STUCK))


def _operator_in_free(lane: Lane, rules: LaneRules, _: OperatorReleased) -> Step:
    """Only a barrier told by pulses needs it: one pulse."""
    return lane, _pulse_in_free(rules)


def _operator_refused(lane: Lane, _: LaneRules, __: OperatorReleased) -> Step:
    """Refused: unlock the lane first."""
    return lane, (Alarm(AlarmKind.COMMAND_REFUSED),)


def _mode_at_rest(lane: Lane, rules: LaneRules, event: ModeCommanded) -> Step:
    """The lane takes on the mode, or refuses it: an exit that opens always can't be locked."""
    if event.mode is Mode.LOCKED and rules.opens_always:
        return lane, (Alarm(AlarmKind.COMMAND_REFUSED),)
    return _rest(lane._replace(mode=event.mode), rules)


def _mode_during_grant(lane: Lane, rules: LaneRules, event: ModeCommanded) -> Step:
    """Only ``locked`` and ``free`` outrank a grant; any other mode waits until the guest has passed."""
    if event.mode is Mode.LOCKED and rules.opens_always:
        return lane, (Alarm(AlarmKind.COMMAND_REFUSED),)
    lane = lane._replace(mode=event.mode)
    return _interrupt(lane, rules) if event.mode in (Mode.LOCKED, Mode.FREE) else (lane, ())


def _interrupt(lane: Lane, rules: LaneRules) -> Step:
    """Something of higher rank ends the turn, if there is one. In ``free`` its guest passes all the same."""
    came = _unseen(lane)
    if lane.state is State.PASSING or resting_state(lane, rules) is State.FREE:
        came = Came.UNKNOWN
    note = _note(lane, came) if lane.state in (State.GRANTED, State.PASSING) else ()
    return _then(note, _rest(lane, rules))


def _lost_at_rest(lane: Lane, rules: LaneRules, _: ScannersLost) -> Step:
    """Shown; an exit that opens always becomes free."""
    return _rest(lane._replace(scanners_lost=True), rules)


def _found_at_rest(lane: Lane, rules: LaneRules, _: ScannersFound) -> Step:
    """Shown; the lane goes back to its mode."""
    return _rest(lane._replace(scanners_lost=False), rules)


def _lost(lane: Lane, rules: LaneRules, _: ScannersLost) -> Step:
    """In somebody's turn, or while a denial shows: only an exit that becomes ``free`` can't wait."""
    lane = lane._replace(scanners_lost=True)
    return _interrupt(lane, rules) if resting_state(lane, rules) is State.FREE else (lane, ())


def _found(lane: Lane, _: LaneRules, __: ScannersFound) -> Step:
    """Noted."""
    return lane._replace(scanners_lost=False), ()


# The emergency


def _emergency(lane: Lane, rules: LaneRules, _: EmergencyBegan) -> Step:
    """The emergency begins: whatever was going on ends, a barrier that is held is released."""
    return _interrupt(lane._replace(emergency=True), rules)


def _emergency_ended(lane: Lane, rules: LaneRules, _: EmergencyEnded) -> Step:
    """The lane goes back to its mode."""
    return _rest(lane._replace(emergency=False), rules)


def _mode_in_emergency(lane: Lane, rules: LaneRules, event: ModeCommanded) -> Step:
    """Remembered, and of no effect until the emergency is over."""
    if event.mode is Mode.LOCKED and rules.opens_always:
        return lane, (Alarm(AlarmKind.COMMAND_REFUSED),)
    return lane._replace(mode=event.mode), ()


def _same(lane: Lane, _: LaneRules, __: Event) -> Step:
    """Nothing changes."""
    return lane, ()


# The table. Each row begins with what most states do.

_AT_REST_DOES: dict[type[Event], Transition] = {
    Decided: _verdict_too_late,
    TimerEnded: _same,
    PassageBegan: _moved,
    PassageDone: _moved,
    ModeCommanded: _mode_at_rest,
    ScannersLost: _lost_at_rest,
    ScannersFound: _found_at_rest,
    EmergencyBegan: _emergency,
    EmergencyEnded: _same,
}
_IN_TURN_DOES: dict[type[Event], Transition] = {
    BarcodeRead: _read_in_turn,
    MalformedRead: _malformed_in_turn,
    Decided: _verdict_in_turn,
    OperatorReleased: _operator_during_grant,
    ModeCommanded: _mode_during_grant,
    ScannersLost: _lost,
    ScannersFound: _found,
    EmergencyBegan: _emergency,
    EmergencyEnded: _same,
}
_CLOSED_DOES: dict[type[Event], Transition] = {
    **_AT_REST_DOES,
    BarcodeRead: _read_undecided,
    MalformedRead: _malformed_undecided,
}

_ROWS: dict[State, dict[type[Event], Transition]] = {
    State.READY: {
        **_AT_REST_DOES,
        BarcodeRead: _read,
        MalformedRead: _malformed,
        OperatorReleased: _operator,
    },
    State.DECIDING: {
        **_IN_TURN_DOES,
        Decided: _verdict,
        TimerEnded: _decision_late,
        PassageBegan: _moved,
        PassageDone: _moved,
        OperatorReleased: _operator_while_deciding,
    },
    State.GRANTED: {
        **_IN_TURN_DOES,
        TimerEnded: _lapsed,
        PassageBegan: _began,
        PassageDone: _done,
    },
    State.PASSING: {
        **_IN_TURN_DOES,
        TimerEnded: _stuck,
        PassageBegan: _began_again,
        PassageDone: _done,
        OperatorReleased: _operator_during_passage,
    },
    State.DENIED: {
        **_AT_REST_DOES,
        BarcodeRead: _read,
        MalformedRead: _malformed,
        OperatorReleased: _operator,
        TimerEnded: _shown,
        ScannersLost: _lost,
        ScannersFound: _found,
    },
    State.FREE: {
        **_AT_REST_DOES,
        BarcodeRead: _read_in_free,
        MalformedRead: _malformed_in_free,
        Decided: _verdict_in_free,
        TimerEnded: _shown_in_free,
        PassageBegan: _moved_in_free,
        PassageDone: _moved_in_free,
        OperatorReleased: _operator_in_free,
    },
    State.LOCKED: {**_CLOSED_DOES, OperatorReleased: _operator_refused},
    State.OUT_OF_SERVICE: {**_CLOSED_DOES, OperatorReleased: _operator},
    State.EMERGENCY: {
        **_CLOSED_DOES,
        PassageBegan: _moved_in_free,
        PassageDone: _moved_in_free,
        OperatorReleased: _same,
        ModeCommanded: _mode_in_emergency,
        ScannersLost: _lost,
        ScannersFound: _found,
        EmergencyBegan: _same,
        EmergencyEnded: _emergency_ended,
    },
}

TABLE: dict[tuple[State, type[Event]], Transition] = {
    (state, event): transition for state, row in _ROWS.items() for event, transition in row.items()
}
