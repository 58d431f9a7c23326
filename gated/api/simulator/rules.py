"""A ticket as the server has it, and the server's rules for checking it in and out.

Rules of its own: nothing here may come from the gate's decision code, so that gate and server check each
other. Fields, codes and texts are the Ticket Scan API's. Where its document is silent, this server

- refuses a cancelled or too early ticket with 45, and looks at the entries left after everything else;
- takes a ticket with neither a maximum nor remaining scans for one entry.
"""

from datetime import UTC, datetime

import msgspec

# Ticket Scan API, "Scan Status Codes".
MESSAGES = {
    40: "DENY - Ticket barcode unknown: not accepted at this check-in point",
    45: "DENY - Ticket is not allowed: this ticket type can not be scanned",
    50: "DENY - Ticket already scanned: {} UTC",
    60: "DENY - Ticket barcode is expired: on {} UTC",
    100: "ADMIT - Ticket is valid",
    200: "ADMIT - Ticket checked-out correctly",
    210: "DENY - Can not check-out ticket: ticket already checked-out",
    220: "DENY - Can not check-out ticket: no valid check-ins found",
    230: "DENY - Can not check-out ticket: barcode not in service",
}


class Ticket(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A row of the API's ``barcodes``, but for its scan status. The defaults: valid, one entry."""

    barcode_id: str
    external_barcode_id: str | None = None
    batch_id: str | None = None
    ticket_type: str = "Regular"
    ticket_type_hash_id: str = "7f3a1c52-0b6e-4c1d-9d57-000000000001"
    subtitle: str | None = None
    first_name: str | None = None
    sur_name: str | None = None
    city: str | None = None
    email: str | None = None
    mobile: str | None = None
    serial_number: int = 0  # counts the tickets in the order of their sale; set by the event
    price: int = 25
    is_checkin_allowed: int = 1
    is_canceled: int = 0
    expire_from: int | None = None
    checkin_valid_from: int | None = None
    checkin_valid_till: int | None = None
    validation_max_checkins: int | None = 1
    remaining_scans: int | None = 1
    count_checked_in: int = 0
    last_checked_in_time: int | None = None
    last_checked_out_time: int | None = None
    section_id: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None


def left(ticket: Ticket) -> int:
    """How many entries a ticket has left, by this server's reading."""
    if ticket.remaining_scans is not None:
        return ticket.remaining_scans
    return (ticket.validation_max_checkins or 1) - ticket.count_checked_in


def expiry(ticket: Ticket, now: float) -> int | None:
    """When a ticket expired, or None: it is good before ``expire_from``, and until ``checkin_valid_till``."""
    ends = []
    if ticket.expire_from is not None and now >= ticket.expire_from:
        ends.append(ticket.expire_from)
    if ticket.checkin_valid_till is not None and now > ticket.checkin_valid_till:
        ends.append(ticket.checkin_valid_till)
    return min(ends, default=None)


def entry_code(ticket: Ticket | None, now: float) -> int:
    """The status code of a check-in at ``now``."""
    if ticket is None:
        return 40
    too_early = ticket.checkin_valid_from is not None and now < ticket.checkin_valid_from
    if ticket.is_canceled or not ticket.is_checkin_allowed or too_early:
        return 45
    if expiry(ticket, now) is not None:
        return 60
    return 100 if left(ticket) > 0 else 50


def exit_code(ticket: Ticket | None, *, inside: bool) -> int:
    """The status code of a check-out."""
    if ticket is None:
        return 230
    if ticket.count_checked_in == 0:
        return 220
    return 200 if inside else 210


def message(code: int, ticket: Ticket | None, now: float) -> str:
    """The document's text for a code, its time filled in."""
    moment = None
    if ticket is not None:
        moment = expiry(ticket, now) if code == 60 else ticket.last_checked_in_time
    when = "unknown" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"
    return MESSAGES[code].format(when)
