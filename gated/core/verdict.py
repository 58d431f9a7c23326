"""A verdict: ADMIT or DENY, with the API's status code where it has one and a reason of ours.

The codes drive logic; texts are for people, and are the API's own (Ticket Scan API, "Scan Status Codes").
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Reason(StrEnum):
    """Why a verdict is what it is: one word, the same in the journal, the log and the signals."""

    VALID = "valid"
    REGRANT = "regrant"
    UNKNOWN = "unknown"
    ORDER = "order"  # the number of an order: asked about, the server might check in all its tickets
    CANCELED = "canceled"
    NOT_ALLOWED = "not_allowed"
    BAD_DATA = "bad_data"
    TOO_EARLY = "too_early"
    EXPIRED = "expired"
    ALREADY_SCANNED = "already_scanned"
    CHECKED_OUT = "checked_out"
    ALREADY_CHECKED_OUT = "already_checked_out"
    NOT_CHECKED_IN = "not_checked_in"
    NOT_IN_SERVICE = "not_in_service"
    MALFORMED = "malformed"
    AMBIGUOUS = "ambiguous"
    NOT_READY = "not_ready"  # nothing of the service is on disk yet
    BUSY = "busy"  # the ticket is being asked about at another lane, or asking is rationed
    NO_ANSWER = "no_answer"  # the API was asked and did not answer in time
    REFUSED = "refused"  # the API answered, with nothing that admits
    UNDECIDED = "undecided"  # read while the lane takes no tickets (locked, out of service, emergency)
    FAULT = "fault"  # the store could not answer


class Origin(StrEnum):
    """Who decided."""

    LOCAL = "local"
    DIRECT = "direct"
    FALLBACK = "fallback"
    ASK = "ask"
    REGRANT = "regrant"
    OVERRIDE = "override"


# Ticket Scan API, "Scan Status Codes". {time} stands for its {last_checked_in_time} and {expire_time}.
STATUS_MESSAGES = {
    40: "DENY - Ticket barcode unknown: not accepted at this check-in point",
    45: "DENY - Ticket is not allowed: this ticket type can not be scanned",
    50: "DENY - Ticket already scanned: {time} UTC",
    60: "DENY - Ticket barcode is expired: on {time} UTC",
    100: "ADMIT - Ticket is valid",
    200: "ADMIT - Ticket checked-out correctly",
    210: "DENY - Can not check-out ticket: ticket already checked-out",
    220: "DENY - Can not check-out ticket: no valid check-ins found",
    230: "DENY - Can not check-out ticket: barcode not in service",
}

ADMITTING = frozenset({100, 200})


@dataclass(frozen=True, slots=True)
class Verdict:
    """ADMIT or DENY. ``code`` is None where the API has no code for it; such a scan is never uploaded.

    ``time`` is the aware UTC time that the reason speaks of: when it was already scanned, when it expired,
    from when it is valid. ``lane`` is where it was already scanned, if that was at this gate.
    """

    admitted: bool
    code: int | None
    reason: Reason
    time: datetime | None = None
    lane: str | None = None

    @property
    def word(self) -> str:
        """``ADMIT`` or ``DENY``, as the API's texts begin."""
        return "ADMIT" if self.admitted else "DENY"

    @property
    def message(self) -> str:
        """The API's text for the code with its time filled in, or a text of ours where there is no code."""
        if self.code is None:
            return f"{self.word} - {self.reason}"
        when = "unknown" if self.time is None else f"{self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        return STATUS_MESSAGES[self.code].format(time=when)


def admit(code: int, reason: Reason) -> Verdict:
    """An ADMIT."""
    return Verdict(True, code, reason)


def deny(
    code: int | None, reason: Reason, *, time: datetime | None = None, lane: str | None = None
) -> Verdict:
    """A DENY."""
    return Verdict(False, code, reason, time, lane)
