"""What goes up to the server, and in which order.

Check-ins first, because they keep a ticket from being used elsewhere; then the rest. Oldest first.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum

from gated.core.scan import Moment, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict


class Kind(IntEnum):
    """The outbox's queues, the first goes first; check-outs that are replayed go one by one."""

    CHECK_IN = 0
    OTHER = 1
    CHECK_OUT = 2


@dataclass(frozen=True, slots=True)
class UploadRules:
    """Which scans the organiser wants to see."""

    denials: bool = True
    unknown: bool = True
    replay_checkouts: bool = False
    """Send a check-out as the call that it missed, not as an uploaded scan."""


UPLOAD_ALL = UploadRules()


@dataclass(frozen=True, slots=True)
class Row:
    """One scan of the outbox, frozen: from its first sending on it never changes."""

    seq: int
    kind: Kind
    barcode_id: str
    checked_in_time: int  # Unix seconds, UTC
    status_code: int
    status_message: str
    service: str = ""
    """The service that the scan belongs to; blank if none was known then."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which the server may have carried out a call: Unix seconds by its clock, both included."""

    start: int
    end: int

    def has(self, time: int | None) -> bool:
        """Whether a time of the server lies in it."""
        return time is not None and self.start <= time <= self.end


@dataclass(frozen=True, slots=True)
class Shown:
    """What a download shows of a ticket: last check-in and check-out (Unix seconds), and entries in all."""

    last_in: int | None
    last_out: int | None
    entries: int


class Lost(Enum):
    """What to do about a row that went out and was not answered, once a later download has come."""

    RECORDED = "recorded"
    AGAIN = "again"
    """Send it again, marked: at worst the server has it twice."""
    UNCERTAIN = "uncertain"
    """Park it: a second copy would take an entry from a guest who still has one."""


def lost(row: Row, window: Window | None, shown: Shown | None) -> Lost:
    """What became of a lost row, by a download that was asked for afterwards.

    An upload is recorded if the ticket shows exactly the time that was sent; a direct call, which carries no
    time, if it shows one in the call's window. No row of the download: the server does not know the ticket.
    No download shows denials.
    """
    if shown is None or row.status_code not in (100, 200):
        return Lost.AGAIN
    entered = row.status_code == 100
    seen = shown.last_in if entered else shown.last_out
    if seen == row.checked_in_time or (window is not None and window.has(seen)):
        return Lost.RECORDED
    return Lost.UNCERTAIN if entered and shown.entries > 1 else Lost.AGAIN


def kind_of(verdict: Verdict, origin: Origin, rules: UploadRules) -> Kind | None:
    """Where a verdict goes in the outbox; None if the server need not or can not be told.

    What the server itself answered is not sent back, but for an unknown barcode: it has no ticket to keep
    that with. A re-grant is the same check-in again and would count twice.
    """
    code = verdict.code
    if code is None or verdict.reason is Reason.REGRANT:
        return None
    if code == 40:
        return Kind.OTHER if rules.unknown else None
    if origin in (Origin.DIRECT, Origin.ASK):
        return None
    if code == 100:
        return Kind.CHECK_IN
    if code == 200 and rules.replay_checkouts:
        return Kind.CHECK_OUT
    return Kind.OTHER if verdict.admitted or rules.denials else None


def stamped(scan: Moment, now: Moment) -> datetime:
    """The time that the server is told for a scan.

    A scan read while the time was unknown is corrected once it is known, if that is in the same boot: by the
    seconds that have passed. One of an earlier boot keeps its stamp, which is a lower bound.
    """
    if scan.trust is not TimeTrust.UNKNOWN or now.trust is TimeTrust.UNKNOWN or scan.boot != now.boot:
        return scan.wall
    return now.wall - timedelta(seconds=now.monotonic - scan.monotonic)
