"""The decision: a scan and a ticket in, a verdict out. The first rule that answers is the verdict.

It serves the local strategy, the fall-back of the direct one, and the explanation of a verdict, which asks
every rule. Codes are the API's (Ticket Scan API, "Scan Status Codes"); it has none for a cancelled ticket
or for one that is not valid yet: both are 45, "not allowed".
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gated.core.overlay import Overlay, left
from gated.core.scan import Direction, Scan, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Reason, Verdict, admit, deny


@dataclass(frozen=True, slots=True)
class Rules:
    """What a lane and its service allow. An empty set of types allows all.

    ``service_types`` must be empty unless it was read after the ticket's row.
    """

    lane_types: frozenset[str] = frozenset()
    service_types: frozenset[str] = frozenset()
    reentry_after_checkout: bool = False


@dataclass(frozen=True, slots=True)
class Now:
    """The time of a decision. While trust is unknown, it is a lower bound and may only expire a ticket."""

    time: datetime
    trust: TimeTrust


@dataclass(frozen=True, slots=True)
class Question:
    """All that a rule may look at."""

    ticket: Ticket | None
    overlay: Overlay
    rules: Rules
    now: Now


Rule = Callable[[Question], Verdict | None]


def decide(scan: Scan, ticket: Ticket | None, overlay: Overlay, rules: Rules, now: Now) -> Verdict:
    """The verdict on a scan. ``ticket`` is None where nobody here knows the barcode."""
    question = Question(ticket, overlay, rules, now)
    for _, rule in RULES[scan.direction]:
        verdict = rule(question)
        if verdict is not None:
            return verdict
    raise AssertionError("the last rule of each direction always answers")


def of_another_type(ticket: Ticket, types: frozenset[str]) -> bool:
    """Whether a list of ticket types, by id or by name, leaves this ticket out."""
    return bool(types) and types.isdisjoint((ticket.type_id, ticket.type_name))


def _unknown(question: Question) -> Verdict | None:
    return deny(40, Reason.UNKNOWN) if question.ticket is None else None


def _canceled(question: Question) -> Verdict | None:
    ticket = question.ticket
    return deny(45, Reason.CANCELED) if ticket and ticket.canceled else None


def _bad_data(question: Question) -> Verdict | None:
    ticket = question.ticket
    return deny(45, Reason.BAD_DATA) if ticket and ticket.unreadable else None


def _not_allowed(question: Question) -> Verdict | None:
    ticket, rules = question.ticket, question.rules
    if ticket and (
        not ticket.checkin_allowed
        or of_another_type(ticket, rules.lane_types)
        or of_another_type(ticket, rules.service_types)
    ):
        return deny(45, Reason.NOT_ALLOWED)
    return None


def _expired(question: Question) -> Verdict | None:
    ticket, now = question.ticket, question.now.time
    if ticket is None:
        return None
    ends = []
    if ticket.expire_from is not None and now >= ticket.expire_from:
        ends.append(ticket.expire_from)
    if ticket.valid_till is not None and now > ticket.valid_till:
        ends.append(ticket.valid_till)
    return deny(60, Reason.EXPIRED, time=min(ends)) if ends else None


def _too_early(question: Question) -> Verdict | None:
    ticket, now = question.ticket, question.now
    if ticket is None or ticket.valid_from is None or now.trust is TimeTrust.UNKNOWN:
        return None
    return deny(45, Reason.TOO_EARLY, time=ticket.valid_from) if now.time < ticket.valid_from else None


def _regrant(question: Question) -> Verdict | None:
    return admit(100, Reason.REGRANT) if question.overlay.lapsed else None


def _already_scanned(question: Question) -> Verdict | None:
    ticket, overlay = question.ticket, question.overlay
    if ticket is None:
        return None
    if left(ticket, overlay, reentry_after_checkout=question.rules.reentry_after_checkout) > 0:
        return None
    own = overlay.last_entry
    if own is not None:
        return deny(50, Reason.ALREADY_SCANNED, time=own.time, lane=own.lane)
    return deny(50, Reason.ALREADY_SCANNED, time=ticket.last_checked_in)


def _valid(_: Question) -> Verdict | None:
    return admit(100, Reason.VALID)


def _not_in_service(question: Question) -> Verdict | None:
    return deny(230, Reason.NOT_IN_SERVICE) if question.ticket is None else None


def _not_checked_in(question: Question) -> Verdict | None:
    ticket, overlay = question.ticket, question.overlay
    if ticket is None or overlay.entries or ticket.checked_in > 0 or ticket.last_checked_in is not None:
        return None
    return deny(220, Reason.NOT_CHECKED_IN)


def _already_checked_out(question: Question) -> Verdict | None:
    ticket, own = question.ticket, question.overlay.last
    if own is not None:
        if own.direction is Direction.EXIT:
            return deny(210, Reason.ALREADY_CHECKED_OUT, time=own.time, lane=own.lane)
        return None
    if ticket is None or ticket.last_checked_out is None:
        return None
    if ticket.last_checked_in is None or ticket.last_checked_out >= ticket.last_checked_in:
        return deny(210, Reason.ALREADY_CHECKED_OUT, time=ticket.last_checked_out)
    return None


def _checked_out(_: Question) -> Verdict | None:
    return admit(200, Reason.CHECKED_OUT)


RULES: dict[Direction, tuple[tuple[str, Rule], ...]] = {
    Direction.ENTRY: (
        ("known", _unknown),
        ("not cancelled", _canceled),
        ("row readable", _bad_data),
        ("allowed here", _not_allowed),
        ("not expired", _expired),
        ("not too early", _too_early),
        ("no lapsed grant waiting", _regrant),
        ("entries left", _already_scanned),
        ("valid", _valid),
    ),
    Direction.EXIT: (
        ("in the service", _not_in_service),
        ("checked in", _not_checked_in),
        ("not checked out", _already_checked_out),
        ("valid", _checked_out),
    ),
}
