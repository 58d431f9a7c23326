"""What goes up to the server, and in which order.

Check-ins first, because they keep a ticket from being used elsewhere; then the rest. Oldest first.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

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
