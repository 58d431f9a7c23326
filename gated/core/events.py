"""What a lane is told, what it does about it, and what it remembers: the words of its table."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from gated.core.scan import Direction
from gated.core.signals import Outcome
from gated.core.verdict import Reason, Verdict


class State(StrEnum):
    """What a lane is doing."""

    READY = "ready"
    DECIDING = "deciding"
    GRANTED = "granted"
    PASSING = "passing"
    DENIED = "denied"
    FREE = "free"
    LOCKED = "locked"
    OUT_OF_SERVICE = "out_of_service"
    EMERGENCY = "emergency"


class Mode(StrEnum):
    """What a lane has been told to be."""

    CONTROLLED = "controlled"
    FREE = "free"
    LOCKED = "locked"
    OUT_OF_SERVICE = "out_of_service"


class Profile(StrEnum):
    """How a barrier is told to release."""

    PULSE = "pulse"  # a short contact; the turnstile relocks itself
    HOLD = "hold"  # as long as the contact stands


class Sensors(StrEnum):
    """What a lane sees of a passage."""

    NONE = "none"
    ONE = "one"  # one contact: the passage is done
    TWO = "two"  # two contacts: it begins, it is done


@dataclass(frozen=True, slots=True)
class LaneRules:
    """What a lane is made of and how it behaves."""

    direction: Direction
    profile: Profile = Profile.PULSE
    sensors: Sensors = Sensors.NONE
    grant: timedelta = timedelta(seconds=5)
    repeat_gap: timedelta = timedelta(seconds=1)
    opens_always: bool = False
    """An exit that opens whatever the verdict is."""


# Events


@dataclass(frozen=True, slots=True)
class BarcodeRead:
    """A well-formed barcode was read, at monotonic seconds ``at``."""

    barcode: str
    at: float


@dataclass(frozen=True, slots=True)
class MalformedRead:
    """Something was read that is no barcode."""

    at: float


@dataclass(frozen=True, slots=True)
class Decided:
    """The verdict that :class:`Decide` of that number asked for."""

    number: int
    verdict: Verdict
    look: bool = False
    """Whether staff should look at whom this type of ticket admits."""
    ticket_type: str = ""
    """The type, where its admission is shown in a way of its own."""


@dataclass(frozen=True, slots=True)
class TimerEnded:
    """The lane's timer ran out."""

    at: float


@dataclass(frozen=True, slots=True)
class PassageBegan:
    """The first sensor saw somebody."""

    at: float


@dataclass(frozen=True, slots=True)
class PassageDone:
    """The sensor saw somebody go through."""

    at: float


@dataclass(frozen=True, slots=True)
class OperatorReleased:
    """An operator releases the barrier: the button, or a command."""


@dataclass(frozen=True, slots=True)
class ModeCommanded:
    """An operator gives the lane a mode."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class ScannersLost:
    """No scanner of the lane can be read."""


@dataclass(frozen=True, slots=True)
class ScannersFound:
    """A scanner of the lane can be read again."""


@dataclass(frozen=True, slots=True)
class EmergencyBegan:
    """The emergency input says so, or its wire is broken."""


@dataclass(frozen=True, slots=True)
class EmergencyEnded:
    """The emergency is over and has been reset."""


Event = (
    BarcodeRead
    | MalformedRead
    | Decided
    | TimerEnded
    | PassageBegan
    | PassageDone
    | OperatorReleased
    | ModeCommanded
    | ScannersLost
    | ScannersFound
    | EmergencyBegan
    | EmergencyEnded
)

# Effects


@dataclass(frozen=True, slots=True)
class Decide:
    """Decide on this barcode and answer with :class:`Decided` of the same number."""

    number: int
    barcode: str


@dataclass(frozen=True, slots=True)
class Journal:
    """Journal a scan that is not decided on; the barcode is blank where the text was malformed."""

    barcode: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Release:
    """Release the barrier: a pulse, or until :class:`Relock`, by the lane's profile."""


@dataclass(frozen=True, slots=True)
class Relock:
    """De-energise the barrier's output."""


@dataclass(frozen=True, slots=True)
class Show:
    """Show this on lamps and buzzer. READY stands for whatever a lane at rest shows."""

    outcome: Outcome
    ticket_type: str = ""
    """Of the ticket that is admitted, where that is shown in a way of its own."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the lane's only timer, or start it anew."""

    duration: timedelta


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the lane's timer."""


class Came(StrEnum):
    """What came of a grant."""

    TAKEN = "taken"
    NOT_TAKEN = "not_taken"  # seen by a sensor that is believed
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Note:
    """Note what came of the admission of that number."""

    number: int
    came: Came


class AlarmKind(StrEnum):
    """What a lane raises the alarm for."""

    FORCED = "forced"
    STUCK = "stuck"
    SENSOR_DOUBTFUL = "sensor_doubtful"
    DECISION_LATE = "decision_late"
    COMMAND_REFUSED = "command_refused"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Raise the alarm."""

    kind: AlarmKind


Effect = Decide | Journal | Release | Relock | Show | Start | Stop | Note | Alarm
Effects = tuple[Effect, ...]


class Lane(NamedTuple):
    """A lane's state and the little that it remembers.

    A named tuple, since a scan makes it anew twice: in a third of a frozen dataclass's time.
    """

    state: State = State.READY
    mode: Mode = Mode.CONTROLLED
    emergency: bool = False
    scanners_lost: bool = False
    barcode: str = ""
    """The barcode whose turn it is or was last; blank if an operator released, or nothing could be read."""
    in_sight: tuple[tuple[str, float], ...] = ()
    """Barcodes that have had their answer, and when each was last read; one out of sight drops off."""
    number: int = 0
    """Numbers the turns; a decision has the number of the turn it is asked for."""
    waiting: BarcodeRead | None = None
    """The one read that is decided when the lane is ready."""
    granted: int | None = None
    """The number of the admission whose grant stands, or lapsed a moment ago; None if no ticket's."""
    lapsed_at: float = float("-inf")
    """When the last grant lapsed with nobody seen to pass, or somebody began to pass soon after."""
    without_passage: int = 0
    """Grants that lapsed in a row."""
    sensor_proven: bool = False
    """Whether the sensor has shown a passage at all since the start."""
