"""Why a ticket gets its verdict, in words that a steward understands: the answer first, details after.

Every rule is asked, also those after the one that decides. Nothing here names a person or a barcode. Times
are told in the gate's zone; how long ago something was is told only while the time is known.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any

from gated.core.decide import RULES, Now, Question, Rules, of_another_type
from gated.core.events import Came
from gated.core.overlay import Overlay
from gated.core.scan import Direction, LaneName, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict

# A ticket's scans beyond these are told as a number: a poster with a code on it is scanned all day long.
_SHOWN = 50
# The server's time of a check-in that it was asked for, and ours of that scan, differ by the way there.
_SAME_SCAN = timedelta(seconds=5)


class Upload(StrEnum):
    """What became of a scan on its way to the server."""

    DONE = "done"
    WAITING = "waiting"
    UNANSWERED = "unanswered"  # it went out, no answer came, and no download has shown it yet
    PARKED = "parked"
    NONE = "none"  # the server need not or can not be told


@dataclass(frozen=True, slots=True, kw_only=True)
class PastScan:
    """A scan as the journal keeps it. ``at`` is aware UTC, a lower bound where ``trust`` is unknown."""

    id: ScanId
    at: datetime
    trust: TimeTrust
    lane: LaneName
    direction: Direction
    verdict: Verdict
    origin: Origin
    count_before: int
    left_before: int
    upload: Upload
    parked: str = ""
    """Why it is parked."""
    sent_again: bool = False
    """It was sent once more though the server may have had it."""
    passage: Came | None = None
    """None while the grant stands, or if its end was not seen."""
    granted_again: bool = False
    undurable: bool = False


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A ticket as it was downloaded, so long ago by the gate's running time; ``absent`` if it is gone since.

    ``before_start``: this gate was off since then, for nobody knows how long.
    """

    ticket: Ticket
    age: timedelta
    absent: bool = False
    before_start: bool = False


@dataclass(frozen=True, slots=True)
class Tickets:
    """All tickets of the mirror. ``as_of`` is the server's time up to which changes have come down."""

    complete: bool
    count: int
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rule says: a verdict, or None if it lets the ticket go on to the next."""

    rule: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What would be decided now at lanes that have the same direction and ticket types.

    ``asks`` says that the server would be asked, and that ``verdict`` stands only if it does not answer.
    ``answers`` are empty where the rules are not come to: the ticket is busy, ambiguous, or not here yet.
    """

    lanes: tuple[LaneName, ...]
    direction: Direction
    rules: Rules
    verdict: Verdict
    asks: bool = False
    opens_always: bool = False
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that this gate knows of a ticket, or of one scan and its ticket.

    ``left`` are the entries that the rules find; None without a ticket. ``scans`` are oldest first. ``scan``
    is set where one was asked for by its id: then there are no rulings, for a digest does not tell a barcode.
    """

    now: Now
    tickets: Tickets
    overlay: Overlay
    mirrored: Mirrored | None = None
    left: int | None = None
    rulings: tuple[Ruling, ...] = ()
    scans: tuple[PastScan, ...] = ()
    scan: PastScan | None = None


def ask_rules(direction: Direction, question: Question) -> tuple[Answer, ...]:
    """What each rule says but the last, which always answers; without a ticket only the first can."""
    answers = tuple(Answer(name, rule(question)) for name, rule in RULES[direction][:-1])
    return answers if question.ticket else answers[:1]


_TOLD_TO_NOBODY = frozenset({"barcode_id", "external_barcode_id", "batch_id"})


def data_of(explanation: Explanation) -> dict[str, Any]:
    """The explanation for programs, without barcodes: an external id must not give away the other."""
    data = asdict(explanation)
    if data["mirrored"]:
        ticket = data["mirrored"]["ticket"]._asdict()
        data["mirrored"]["ticket"] = {name: ticket[name] for name in ticket if name not in _TOLD_TO_NOBODY}
    return data


def lines_of(explanation: Explanation, zone: tzinfo) -> list[str]:
    """The explanation for people. A line that begins with ``!`` is one that somebody should look at."""
    told = _Told(explanation, zone)
    return list(told.ticket() if explanation.scan is None else told.scan(explanation.scan))


_WHY = {
    Reason.VALID: "valid",
    Reason.REGRANT: "may go once more, was admitted and nobody passed",
    Reason.UNKNOWN: "no ticket has this barcode",
    Reason.ORDER: "this is the number of an order; its tickets have barcodes of their own",
    Reason.CANCELED: "the ticket is cancelled",
    Reason.NOT_ALLOWED: "this ticket is not let in here",
    Reason.BAD_DATA: "the server's data of this ticket can't be read",
    Reason.TOO_EARLY: "not valid yet",
    Reason.EXPIRED: "expired",
    Reason.ALREADY_SCANNED: "already scanned",
    Reason.CHECKED_OUT: "may leave",
    Reason.ALREADY_CHECKED_OUT: "already checked out",
    Reason.NOT_CHECKED_IN: "not checked in",
    Reason.NOT_IN_SERVICE: "no ticket has this barcode",
    Reason.MALFORMED: "what was read is no barcode",
    Reason.AMBIGUOUS: "two tickets go by this barcode, which the organiser has to mend",
    Reason.NOT_READY: "not all tickets are downloaded yet",
    Reason.BUSY: "busy asking the server, scan again",
    Reason.NO_ANSWER: "the server did not answer",
    Reason.REFUSED: "the server's answer admits nobody",
    Reason.UNDECIDED: "the lane took no tickets",
    Reason.FAULT: "the gate could not write it down",
}
_WHO = {
    Origin.LOCAL: "this gate",
    Origin.DIRECT: "the server",
    Origin.FALLBACK: "this gate, because the server did not answer",
    Origin.ASK: "the server, because this gate did not know the ticket",
    Origin.REGRANT: "this gate",
    Origin.OVERRIDE: "staff, whatever the rules say",
}
_UPLOADS = {
    Upload.DONE: "the server has it",
    Upload.WAITING: "waits for the server",
    Upload.UNANSWERED: "sent, not answered yet",
    Upload.PARKED: "set aside and not sent",
    Upload.NONE: "not for the server",
}
_PASSAGES = {
    None: "its end was not seen",
    Came.TAKEN: "the guest passed",
    Came.NOT_TAKEN: "nobody passed",
    Came.UNKNOWN: "no sensor says who passed",
}
_DECIDED_ON_NOTHING = (Reason.MALFORMED, Reason.UNDECIDED, Reason.AMBIGUOUS)


class _Told:
    """One explanation on its way into words."""

    def __init__(self, explanation: Explanation, zone: tzinfo) -> None:
        self._known = explanation
        self._now = explanation.now
        self._zone = zone

    def ticket(self) -> Iterator[str]:
        """Of a barcode: what would be decided now, the ticket, the rules, the scans."""
        yield from self._verdicts()
        yield ""
        yield from _block("ticket", self._ticket(), bad=self._known.mirrored is None)
        yield from _block("here", self._overlay())
        for ruling in self._known.rulings:
            yield ""
            yield from self._ruling(ruling)
        yield from self._scans("Scans here")

    def scan(self, scan: PastScan) -> Iterator[str]:
        """Of a scan: its verdict, the ticket as far as it is known, its other scans."""
        yield f"{_word(scan.verdict)} {self._at(scan.at)} at lane {scan.lane}: {self._why_then(scan)}."
        yield ""
        yield from _block("scan", self._then(scan))
        if scan.verdict.reason is not Reason.MALFORMED:
            yield from _block("ticket", self._ticket(), bad=self._known.mirrored is None)
            yield from _block("", ["the barcode is not kept; what holds now: gated explain BARCODE"])
        yield from self._scans("This ticket's scans here")

    # What would be decided now

    def _verdicts(self) -> Iterator[str]:
        """The answer: of the entries, if there are any; in one line, unless they differ."""
        rulings = self._known.rulings
        rulings = tuple(each for each in rulings if each.direction is Direction.ENTRY) or rulings
        told = [self._verdict(each) for each in rulings]
        if len(set(told)) == 1:
            yield told[0]
        else:
            yield from (f"{', '.join(each.lanes)}: {text}" for each, text in zip(rulings, told, strict=True))

    def _verdict(self, ruling: Ruling) -> str:
        why = self._why(ruling.verdict, ruling.rules)
        if ruling.verdict.reason is Reason.VALID and self._known.left is not None:
            why += f", {_entries(self._known.left)} left"
        if not ruling.asks:
            return f"{_word(ruling.verdict)}: {why}."
        return f"The server would be asked. Without its answer: {_word(ruling.verdict).lower()}, {why}."

    def _ruling(self, ruling: Ruling) -> Iterator[str]:
        always = ", which opens in any case" if ruling.opens_always else ""
        yield f"  {ruling.direction.capitalize()} at {', '.join(ruling.lanes)}{always}"
        if ruling.rules.lane_types:
            yield f"    ticket types: {', '.join(sorted(ruling.rules.lane_types))}"
        decided = False
        for answer in ruling.answers:
            decides = answer.verdict is not None and not decided
            decided |= decides
            yield f"  {'>' if decides else ' '} {self._answer(answer, ruling.rules)}"
        if not decided:
            yield f"  > {_word(ruling.verdict)}: {self._why(ruling.verdict, ruling.rules)}"
        if ruling.asks:
            yield "    the server would be asked: this holds if it does not answer"

    def _answer(self, answer: Answer, rules: Rules) -> str:
        verdict = answer.verdict
        if verdict is None:
            return f"✓ {answer.rule}"
        return f"{'✓' if verdict.admitted else '✗'} {answer.rule}: {self._why(verdict, rules)}"

    def _why(self, verdict: Verdict, rules: Rules) -> str:
        """A reason of now, with the time and the place that it speaks of."""
        mirrored = self._known.mirrored
        why = _WHY[verdict.reason]
        match verdict.reason:
            case Reason.UNKNOWN | Reason.NOT_IN_SERVICE if mirrored:
                why = "the server does not have this ticket any more"
            case Reason.NOT_ALLOWED if mirrored:
                why = _why_not_allowed(mirrored.ticket, rules)
            case Reason.BAD_DATA if mirrored:
                why += f": {mirrored.ticket.unreadable}"
            case Reason.TOO_EARLY if verdict.time:
                why = f"valid only from {self._time(verdict.time)}"
            case Reason.EXPIRED if verdict.time:
                why += f" {self._at(verdict.time)}{self._ago(verdict.time)}"
            case Reason.ALREADY_SCANNED | Reason.ALREADY_CHECKED_OUT:
                why += self._when_and_where(verdict)
        return why

    def _when_and_where(self, verdict: Verdict) -> str:
        """When and where a ticket was scanned already; only the server may know, and it knows no lane."""
        if verdict.time is None:
            return ", nobody knows when"
        own = [scan for scan in self._known.scans if scan.verdict.admitted]
        lanes = [scan.lane for scan in own if abs(scan.at - verdict.time) <= _SAME_SCAN]
        if verdict.lane or lanes:
            place = f" at lane {verdict.lane or lanes[-1]}"
        else:
            place = "" if own else ", not at this gate"
        return f" {self._at(verdict.time)}{place}{self._ago(verdict.time)}"

    # What was decided once

    def _why_then(self, scan: PastScan) -> str:
        """A reason of then, as far as the journal knows more than the word."""
        words = _WHY[scan.verdict.reason]
        if scan.verdict.reason is not Reason.ALREADY_SCANNED:
            return words
        scans = self._known.scans
        earlier = [
            each
            for each in scans[: _place(scan, scans)]
            if each.verdict.admitted and each.direction is Direction.ENTRY
        ]
        if not earlier:
            return f"{words}, not at this gate"
        return f"{words} {self._at(earlier[-1].at)} at lane {earlier[-1].lane}"

    def _then(self, scan: PastScan) -> Iterator[str]:
        yield f"{self._full(scan.at)}, {scan.direction}{self._ago(scan.at)}"
        yield from _after(scan)
        if scan.verdict.reason not in _DECIDED_ON_NOTHING:
            yield f"by then checked in: {scan.count_before}, {_entries(max(0, scan.left_before))} left"
        yield f"id {scan.id}"

    # What is known of the ticket

    def _ticket(self) -> Iterator[str]:
        mirrored = self._known.mirrored
        if mirrored is None:
            yield from self._no_ticket()
            return
        ticket = mirrored.ticket
        yield _described(ticket)
        if mirrored.absent:
            yield "GONE: the last full download did not have it any more"
        allowed = "allowed" if ticket.checkin_allowed else "NOT ALLOWED"
        yield f"{allowed}, {'CANCELLED' if ticket.canceled else 'not cancelled'}{self._windows(ticket)}"
        yield _counts(ticket)
        went_in, went_out = map(self._maybe, (ticket.last_checked_in, ticket.last_checked_out))
        yield f"last in {went_in}, last out {went_out}"
        age = _span(mirrored.age)
        yield f"downloaded {f'at least {age} ago' if mirrored.before_start else f'{age} ago'}"

    def _no_ticket(self) -> Iterator[str]:
        tickets = self._known.tickets
        yield "not known here"
        if not tickets.complete:
            yield "NOT ALL TICKETS ARE DOWNLOADED YET"
        elif tickets.as_of is None:
            yield f"all {tickets.count} tickets are downloaded"
        else:
            as_of = f"{self._time(tickets.as_of)}{self._ago(tickets.as_of)}"
            yield f"all {tickets.count} tickets are downloaded, as of {as_of}"
        if not self._known.scans:
            yield "never scanned here"

    def _windows(self, ticket: Ticket) -> str:
        windows = (
            ("valid from", ticket.valid_from),
            ("valid till", ticket.valid_till),
            ("expires", ticket.expire_from),
        )
        return "".join(f", {what} {self._time(time)}" for what, time in windows if time)

    def _overlay(self) -> Iterator[str]:
        overlay = self._known.overlay
        if overlay.pending:
            yield f"{_entries(overlay.pending)} that the server has not got yet"
        if overlay.acknowledged:
            yield f"{_entries(overlay.acknowledged)} that the server has and the ticket above may not show"
        if overlay.exits:
            yield f"{_count(overlay.exits, 'exit', 'exits')} that the ticket above may not show"
        if overlay.lapsed:
            yield "admitted, and nobody passed: may go once more"
        if self._known.left is not None:
            yield f"so {_entries(max(0, self._known.left))} left"

    # Its scans

    def _scans(self, title: str) -> Iterator[str]:
        scans = self._known.scans
        if not scans:
            return
        yield ""
        yield f"  {title}, newest last, times of {self._zone}"
        if len(scans) > _SHOWN:
            yield f"    {len(scans) - _SHOWN} more before these"
        for scan in scans[-_SHOWN:]:
            asked_for = self._known.scan is not None and scan.id == self._known.scan.id
            yield f"  {'>' if asked_for else ' '} {self._full(scan.at)}  {_past(scan)}"
            yield f"      {', '.join(_after(scan))}"

    # Times

    def _time(self, time: datetime) -> str:
        """Hours and minutes, with the date unless that is today's."""
        local = time.astimezone(self._zone)
        return f"{local:%H:%M}" if self._is_today(local) else f"{local:%Y-%m-%d %H:%M}"

    def _at(self, time: datetime) -> str:
        local = time.astimezone(self._zone)
        return f"at {local:%H:%M}" if self._is_today(local) else f"on {local:%Y-%m-%d at %H:%M}"

    def _is_today(self, local: datetime) -> bool:
        return local.date() == self._now.time.astimezone(self._zone).date()

    def _full(self, time: datetime) -> str:
        return f"{time.astimezone(self._zone):%Y-%m-%d %H:%M:%S}"

    def _maybe(self, time: datetime | None) -> str:
        return "never" if time is None else self._time(time)

    def _ago(self, time: datetime) -> str:
        """How long ago that was; blank while the time is not known."""
        if self._now.trust is TimeTrust.UNKNOWN or time > self._now.time:
            return ""
        return f", {_span(self._now.time - time)} ago"


def _why_not_allowed(ticket: Ticket, rules: Rules) -> str:
    if not ticket.checkin_allowed:
        return "the organiser does not allow this ticket"
    place = "this lane" if of_another_type(ticket, rules.lane_types) else "this service"
    return f"type {ticket.type_name or ticket.type_id} is not let in at {place}"


def _place(scan: PastScan, scans: tuple[PastScan, ...]) -> int:
    """Where a scan stands among others."""
    return next((place for place, each in enumerate(scans) if each.id == scan.id), 0)


def _past(scan: PastScan) -> str:
    return f"{scan.lane}, {scan.direction}  {_word(scan.verdict)}: {_WHY[scan.verdict.reason]}"


def _after(scan: PastScan) -> Iterator[str]:
    """Who decided, and what became of it."""
    yield f"decided by {_WHO[scan.origin]}"
    if scan.upload is Upload.NONE and scan.origin in (Origin.DIRECT, Origin.ASK):
        yield "the server knows"
    else:
        yield f"{_UPLOADS[scan.upload]}{scan.parked and f': {scan.parked}'}"
    if scan.sent_again:
        yield "sent twice and marked so"
    if scan.verdict.admitted:
        yield _PASSAGES[scan.passage]
    if scan.granted_again:
        yield "granted again later"
    if scan.undurable:
        yield "NOT ON DISK when it was acted on"
    if scan.trust is TimeTrust.UNKNOWN:
        yield "TIME UNKNOWN: then or later"


def _described(ticket: Ticket) -> str:
    seat = (("section", ticket.section), ("row", ticket.row), ("seat", ticket.seat))
    placed = (f"{name} {value}" for name, value in seat if value)
    parts = [part for part in (ticket.type_name or ticket.type_id, ticket.subtitle, *placed) if part]
    return ", ".join(parts) or "of no type"


def _counts(ticket: Ticket) -> str:
    """The server's own count."""
    of = "" if ticket.max_checkins is None else f" of {ticket.max_checkins}"
    remaining = "" if ticket.remaining is None else f", {ticket.remaining} remaining"
    return f"checked in: {ticket.checked_in}{of}{remaining}, says the server"


def _word(verdict: Verdict) -> str:
    if verdict.reason is Reason.UNDECIDED:
        return "Not decided"
    return "Admitted" if verdict.admitted else "Denied"


def _block(name: str, lines: Iterable[str], *, bad: bool = False) -> Iterator[str]:
    """What is told under a name."""
    for number, line in enumerate(lines):
        yield f"{' !'[bad and number == 0]} {'' if number else name:7}  {line}"


def _span(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _entries(number: int) -> str:
    return _count(number, "entry", "entries")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number or 'no'} {many}"
