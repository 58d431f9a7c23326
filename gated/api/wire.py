"""What the Ticket Scan API writes into records of ours, and what we send into bytes. Pure: no I/O, no clock.

- Tolerant at the edge: a field may come in any of the forms that PHP and MySQL give it. Strict inside: a
  record holds only what was understood; nothing is guessed in favour of an ADMIT.
- One bad field costs one ticket, one bad row costs one row, and both are counted; only an answer of another
  shape is an error (:class:`~gated.errors.ApiBadAnswer`).
- Codes drive the logic, texts are for people. Personal data is never read out of the bytes.

The fields are those of the Ticket Scan API's document; the forms are json_encode's and MySQL's. The document
leaves time formats, booleans and refusals open, so none of the forms read here is taken for granted.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gated.api import values
from gated.api.values import Loose
from gated.core.overlay import NOTHING, left
from gated.core.ticket import Ticket
from gated.errors import ApiBadAnswer, ServiceNotChosen

_T = TypeVar("_T")

# What decoding raises: ValueError for bad UTF-8 and base64, RecursionError for JSON nested too deep.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

CAPTIVE_HINT = (
    "Something else answers in the API's place, such as a network's log-in page or a proxy: "
    "check the network, and [api] base_url."
)

# Seconds. The document gives sync_interval no unit; its example of 120 fits seconds. Below 15 the server
# would be hammered, above 900 a cancelled ticket would stay good for too long.
_SYNC_DEFAULT, _SYNC_LEAST, _SYNC_MOST = 120, 15, 900
# Seconds since 1970; the year 5138. Sums of larger numbers leave the floats.
_LATEST_S = 1e11
# Tickets that a service may say it has: far above all events, and within every database's integers.
_MOST_TICKETS = 1_000_000_000
# Two million tickets at 100 a page. A server that always names a next page must not be followed for ever.
_MOST_PAGES = 20_000
# Rows that are read in one go, in a quarter of a millisecond on a PC.
_ROWS_AT_ONCE = 75
# Characters of a server's text that are kept: for the log, and for a two-line display.
_INFO_LENGTH, _MESSAGE_LENGTH = 200, 80
# Services that an error lists.
_LISTED = 20
# Seconds. A server that asks for more than this is asked again all the same.
_MOST_RETRY_AFTER_S = 300.0

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # the document's own sample ids are no valid UUIDs
_TOKEN = re.compile(r"[!-~]{1,8192}")  # it travels in a header
_SPEAKS_OF_TOKEN = re.compile(r"token|jwt|\b(un)?auth|log(ged)?[ -]?in|\bcredential", re.IGNORECASE)
_SPEAKS_OF_EXPIRY = re.compile(r"\bexpired\b", re.IGNORECASE)
_SPEAKS_OF_TICKET = re.compile(r"\b(ticket|barcode)s?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Service:
    """One scan service of the scan user. Everything but ``id`` and ``type_ids`` is for pacing and display."""

    id: str
    name: str
    url: str | None
    sync_interval: timedelta
    """15 to 900 s; 120 s where the server says nothing usable."""
    type_ids: frozenset[str]
    """Hash ids of its ticket types; empty when there are none or one of them could not be read."""
    total_available: int | None
    permissions: frozenset[str] | None
    """Lower-case names; None when the server lists none."""
    setup: str
    information_level: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a service's tickets."""

    tickets: tuple[Ticket, ...]
    set_aside: int
    """Rows without a ``barcode_id`` that can be read."""
    odd: int
    """Rows whose ``barcode_id`` came as a number (leading zeros may be lost) or has come on this page before:
    of several rows of one ticket the strictest counts."""
    total_items: int | None
    total_pages: int | None
    next_page: int | None

    @property
    def last(self) -> bool:
        """There is no page after this one."""
        return self.next_page is None


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """What the server said of one check-in or check-out.

    ``ticket`` shows counters that may be stale: never derive a verdict from it. ``message`` is for display.
    """

    code: int | None
    ticket: Ticket | None
    message: str
    last_checked_in: datetime | None
    matches: bool
    """It speaks of the ticket that was sent, and of no other. Without this no code admits."""
    elements: int
    """Tickets in the answer; more than one means that the server may have checked in several."""


@dataclass(frozen=True, slots=True)
class UploadRow:
    """One scan as it is uploaded; ``checked_in_time`` is in epoch seconds, UTC, for denials too."""

    barcode_id: str
    checked_in_time: int
    status_code: int
    status_message: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What the login token says of itself. Never verified: the server's word decides."""

    user_id: str
    expires_in: timedelta | None
    """Its whole life, by its own ``exp`` and ``iat``; None when it does not say."""
    active: bool
    two_users: bool = False
    """Its ``sub`` and its ``user.uuid``, which should be the same, differ: the ``sub`` is taken."""


# What is asked of the bytes. Unknown keys are skipped unread.


class _Row(msgspec.Struct, gc=False):
    barcode_id: Loose = None
    external_barcode_id: Loose = None
    batch_id: Loose = None
    ticket_type_hash_id: Loose = None
    ticket_type: Loose = None
    subtitle: Loose = None
    section: Loose = None
    row: Loose = None
    seat: Loose = None
    is_checkin_allowed: Loose = None
    is_canceled: Loose = None
    expire_from: Loose = UNSET
    expire_at: Loose = None  # the organiser API's name for it
    expire_time: Loose = None  # the status texts' name for it
    checkin_valid_from: Loose = None
    checkin_valid_till: Loose = None
    validation_max_checkins: Loose = None
    remaining_scans: Loose = None
    count_checked_in: Loose = None
    last_checked_in_time: Loose = None
    last_checked_out_time: Loose = None


class _ScannedRow(_Row, gc=False):
    scan_status_code: Loose = None
    scan_status_message: Loose = None


class _PageNumbers(msgspec.Struct):
    next_page: Loose = UNSET


class _Pagination(msgspec.Struct):
    total_items: Loose = None
    total_pages: Loose = None
    pages: _PageNumbers | list[Loose] | None = None


# PHP writes a list with gaps as an object with numeric keys. What is not a row in it must not spoil the rest.
_NoRow = str | int | float | bool | list[Loose] | None


class _PageAnswer(msgspec.Struct):
    barcodes: list[_Row | _NoRow] | dict[str, _Row | _NoRow] | UnsetType | None = UNSET
    pagination: _Pagination | list[Loose] | None = None


class _ScanAnswer(msgspec.Struct):
    barcodes: list[_ScannedRow | _NoRow] | dict[str, _ScannedRow | _NoRow] | UnsetType | None = UNSET


_page_decoder = msgspec.json.Decoder(_PageAnswer)
_scan_decoder = msgspec.json.Decoder(_ScanAnswer)
_object_decoder = msgspec.json.Decoder(dict[str, Loose])


def read_page(body: bytes, *, asked: int, limit: int) -> Page:
    """The page numbered ``asked`` of at most ``limit`` tickets. Raises ApiBadAnswer for another shape."""
    reading = reading_page(body, asked=asked, limit=limit)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            page: Page = done.value
            return page


def reading_page(body: bytes, *, asked: int, limit: int) -> Generator[None, None, Page]:
    """Reads as :func:`read_page` does, and gives way after the JSON and after some rows: a scan may wait."""
    answer = _decode(_page_decoder.decode, body)
    yield
    if answer.barcodes is UNSET:
        raise ApiBadAnswer("the list of tickets has no 'barcodes'")
    rows = values.elements(answer.barcodes)
    tickets: dict[str, Ticket] = {}
    set_aside = odd = 0
    for number, row in enumerate(rows, 1):
        if number % _ROWS_AT_ONCE == 0:
            yield
        ticket = _ticket(row) if type(row) is _Row else None
        if ticket is None:
            set_aside += 1
            continue
        other = tickets.get(ticket.barcode_id)
        odd += type(row.barcode_id) is int or other is not None
        tickets[ticket.barcode_id] = ticket if other is None else _strictest(other, ticket)
    pagination = answer.pagination if isinstance(answer.pagination, _Pagination) else _Pagination()
    following = _next_page(pagination, asked=asked, rows=len(rows), limit=limit)
    return Page(
        tickets=tuple(tickets.values()),
        set_aside=set_aside,
        odd=odd,
        total_items=_tally(pagination.total_items),
        total_pages=_tally(pagination.total_pages),
        next_page=following,
    )


def read_services(body: bytes) -> tuple[Service, ...]:
    """The scan user's services; those without a usable id are left out. Raises ApiBadAnswer."""
    answer = _decode(_object_decoder.decode, body)
    try:
        listed = values.elements(answer["services"])
    except (KeyError, ValueError) as error:
        raise ApiBadAnswer("the list of services has no 'services'") from error
    return tuple(service for each in listed if isinstance(each, dict) and (service := _service(each)))


def choose_service(services: Sequence[Service], wanted: str | None) -> Service:
    """The service with the id or name ``wanted``, or the only one. Never another: raises ServiceNotChosen."""
    if wanted is None:
        fitting = list(services)
    else:
        fitting = [each for each in services if each.id == wanted]
        fitting = fitting or [each for each in services if each.name == wanted]
    if len(fitting) == 1:
        return fitting[0]
    complaint = "the scan user has several services" if services else "the scan user has no service"
    if wanted is not None:
        complaint = f"{len(fitting) or 'none'} of the scan user's services fits {wanted!r}"
    listing = "; ".join(f"{each.id} ({each.name})" for each in services[:_LISTED]) or "none"
    if len(services) > _LISTED:
        listing += f"; and {len(services) - _LISTED} more"
    hint = "" if services else "Ask the organiser to give the scan user the event's scan service."
    raise ServiceNotChosen(f"{complaint}: {listing}", hint=hint)


def read_scan_answer(body: bytes, sent: str) -> DirectAnswer:
    """The answer (2xx) to a check-in or check-out of ``sent``. Raises ApiBadAnswer for another shape."""
    answer = _decode(_scan_decoder.decode, body)
    if answer.barcodes is UNSET:
        raise ApiBadAnswer("the answer to a scan has no 'barcodes'")
    elements = values.elements(answer.barcodes)
    rows = [each for each in elements if type(each) is _ScannedRow]
    row = next((each for each in rows if _is_of(each, sent)), rows[0] if rows else None)
    if row is None:
        return DirectAnswer(None, None, "", None, False, len(elements))
    ticket = _ticket(row)
    return DirectAnswer(
        code=values.whole(row.scan_status_code),
        ticket=ticket,
        message=values.printable(values.display(row.scan_status_message), _MESSAGE_LENGTH),
        last_checked_in=ticket.last_checked_in if ticket else None,
        matches=len(elements) == 1 and _is_of(row, sent),
        elements=len(elements),
    )


def read_scan_refusal(body: bytes, sent: str) -> DirectAnswer | None:
    """The answer in a 400 to a scan of ``sent``: a refusal that names its code, else None; never an ADMIT."""
    try:
        answer = read_scan_answer(body, sent)
    except ApiBadAnswer:
        return None
    return None if answer.code in (None, 100, 200) else answer


def read_upload_answer(body: bytes) -> None:
    """Returns if the body says that the scans were stored; raises ApiBadAnswer if it does not.

    A status of 2xx alone is no acknowledgement: a log-in page answers with 200 as well.
    """
    if not {"info", "message"} & _decode(_object_decoder.decode, body).keys():
        raise ApiBadAnswer("the answer to an upload has no 'info'")


def read_login(body: bytes) -> str:
    """The token of a login's answer (200). Raises ApiBadAnswer if there is none that a header can carry."""
    login = _decode(_object_decoder.decode, body).get("login")
    token = login.get("token") if isinstance(login, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ApiBadAnswer(f"the answer to the login has no usable token; it says {info_message(body)!r}")
    return token


def token_claims(token: str) -> Claims:
    """What a login token (JWT, RFC 7519) says of itself. Raises ApiBadAnswer if it names no user."""
    try:
        payload = token.split(".")[1]
        claims = _object_decoder.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, *_UNREADABLE) as error:
        raise ApiBadAnswer("the login token can't be read") from error
    user = claims.get("user")
    if not isinstance(user, dict):
        user = {}
    users = [user_id for each in (claims.get("sub"), user.get("uuid")) if (user_id := _usable_id(each))]
    if not users:
        raise ApiBadAnswer("the login token names no scan user")
    active = user.get("active", True) not in (False, 0, "0", "false")
    return Claims(users[0], _life(claims), active=active, two_users=len(set(users)) > 1)


def info_message(body: bytes) -> str:
    """What an error's body says, for the log: at most 200 printable characters, blank if it says nothing."""
    try:
        said = _object_decoder.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except _UNREADABLE:
        return ""
    for key in ("info", "message", "error", "login", "errors"):
        found = said.get(key)
        if isinstance(found, list):
            found = found[0] if found else None
        if isinstance(found, dict):
            found = found.get("message")
        if isinstance(found, str) and found:
            return values.printable(found, _INFO_LENGTH)
    return ""


def speaks_of_token(message: str) -> bool:
    """A 400 with this message is about the login, not about the ticket or the request."""
    if _SPEAKS_OF_TOKEN.search(message):
        return True
    return bool(_SPEAKS_OF_EXPIRY.search(message)) and not _SPEAKS_OF_TICKET.search(message)


def read_http_date(header: str | None) -> datetime | None:
    """A ``Date`` header (RFC 9110, section 5.6.7) as aware UTC; None if missing or unreadable."""
    try:
        moment = parsedate_to_datetime(header or "")
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def read_retry_after(header: str | None, date: datetime | None) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3) in seconds, 0 to 300; a date counts from the server's ``date``."""
    if header is None:
        return None
    number = values.number(header)
    if number is None:
        until = read_http_date(header)
        if until is None or date is None:
            return None
        number = (until - date).total_seconds()
    return min(max(float(number), 0.0), _MOST_RETRY_AFTER_S)


def encode_login(username: str, password: str) -> bytes:
    """The body of POST userlogin."""
    return msgspec.json.encode({"credentials": {"username": username, "password": password}})


def encode_scan(user_id: str, service_id: str, barcode_id: str) -> bytes:
    """The body of POST barcodes/checkin and barcodes/checkout."""
    return msgspec.json.encode({"user_uuid": user_id, "service_uuid": service_id, "barcode_id": barcode_id})


def encode_upload(user_id: str, service_id: str, rows: Sequence[UploadRow]) -> bytes:
    """The body of POST barcodes/upload: the same rows always give the same bytes."""
    return msgspec.json.encode({"user_uuid": user_id, "service_uuid": service_id, "barcodes": tuple(rows)})


# Shapes.


def _decode(decode: Callable[[bytes], _T], body: bytes) -> _T:
    try:
        return decode(body.removeprefix(b"\xef\xbb\xbf"))  # a PHP file saved with a byte order mark sends it
    except _UNREADABLE as error:
        hint = CAPTIVE_HINT if body.lstrip()[:1] == b"<" else ""
        raise ApiBadAnswer(f"not the JSON that was expected: {error}", hint=hint) from error


def _next_page(pagination: _Pagination, *, asked: int, rows: int, limit: int) -> int | None:
    """By what the server names, else by its total, else for as long as pages are full."""
    total = _tally(pagination.total_pages)
    if rows == 0 and (total is None or asked >= total):
        return None  # whatever it names: there is nothing more to be had
    if isinstance(pagination.pages, _PageNumbers) and pagination.pages.next_page is not UNSET:
        following = _named_page(pagination.pages.next_page)
    elif total is not None:
        following = asked + 1 if asked < total else None
    else:
        following = asked + 1 if rows >= limit else None
    if following is not None and (following != asked + 1 or following > _MOST_PAGES):
        raise ApiBadAnswer(f"page {asked} of the tickets names page {following} as the next one")
    return following


def _tally(value: Loose) -> int | None:
    """How many there are, None if that can't be so."""
    number = values.whole(value)
    return number if number is not None and 0 <= number <= _MOST_TICKETS else None


def _named_page(value: Loose) -> int | None:
    if value in (None, 0, "0", "", [], {}):
        return None
    page = values.whole(value)
    if page is None:
        raise ApiBadAnswer("the number of the next page can't be read")
    return page


def _service(each: dict[str, Loose]) -> Service | None:
    service_id = _usable_id(each.get("uuid"))
    if not service_id:
        return None
    url = each.get("url")
    return Service(
        id=service_id,
        name=values.display(each.get("name")).strip(),
        url=url if isinstance(url, str) and url else None,
        sync_interval=timedelta(seconds=_sync_interval_s(each.get("sync_interval"))),
        type_ids=_names(each.get("ticket_types"), "ticket_type_hash_id") or frozenset(),
        total_available=_tally(each.get("count_total_available")),
        permissions=_names(each.get("permissions"), "name", str.lower),
        setup=values.display(each.get("setup")),
        information_level=values.display(each.get("information_level")),
    )


def _sync_interval_s(value: Loose) -> int:
    seconds = values.whole(value) or 0
    return min(max(seconds, _SYNC_LEAST), _SYNC_MOST) if seconds > 0 else _SYNC_DEFAULT


def _names(listing: Loose, key: str, fold: Callable[[str], str] = str.strip) -> frozenset[str] | None:
    """``key`` of each element; None if there is none, or one can't be read: half would refuse guests."""
    try:
        elements: Iterable[Loose] = values.elements(listing)
    except ValueError:
        return None
    names = [fold(values.display(each.get(key) if isinstance(each, dict) else each)) for each in elements]
    return frozenset(names) if names and all(names) else None


# Rows.


def _ticket(row: _Row) -> Ticket | None:
    """A ticket, or None if its ``barcode_id`` can't be read."""
    barcode_id = values.identifier(row.barcode_id)
    if not barcode_id:
        return None
    bad: list[str] = []
    external = row.external_barcode_id
    expire_from = row.expire_from
    if expire_from is UNSET:
        expire_from = row.expire_at if row.expire_at is not None else row.expire_time
    allowed = values.flag(row.is_checkin_allowed, "is_checkin_allowed", bad)
    canceled = values.flag(row.is_canceled, "is_canceled", bad)
    type_id = values.key(row.ticket_type_hash_id, "ticket_type_hash_id", bad)
    external_id = None if external is None else values.key(external, "external_barcode_id", bad) or None
    from_, till = row.checkin_valid_from, row.checkin_valid_till
    expire = None if expire_from is None else values.moment(expire_from, "expire_from", bad)
    valid_from = None if from_ is None else values.moment(from_, "checkin_valid_from", bad)
    valid_till = None if till is None else values.moment(till, "checkin_valid_till", bad, end_of_day=True)
    max_checkins = values.count(row.validation_max_checkins, "validation_max_checkins", bad)
    remaining = values.count(row.remaining_scans, "remaining_scans", bad)
    checked_in = values.count(row.count_checked_in, "count_checked_in", bad)
    in_, out = row.last_checked_in_time, row.last_checked_out_time
    last_in = None if in_ is None else values.moment(in_, "last_checked_in_time", bad)
    last_out = None if out is None else values.moment(out, "last_checked_out_time", bad)
    return Ticket(
        barcode_id=barcode_id,
        external_barcode_id=external_id,
        batch_id=values.identifier(row.batch_id) or "",
        type_id=type_id,
        type_name=values.display(row.ticket_type),
        subtitle=values.display(row.subtitle),
        section=values.display(row.section),
        row=values.display(row.row),
        seat=values.display(row.seat),
        checkin_allowed=allowed and not bad,
        canceled=canceled,
        expire_from=expire,
        valid_from=valid_from,
        valid_till=valid_till,
        max_checkins=max_checkins,
        remaining=remaining,
        checked_in=checked_in or 0,
        last_checked_in=last_in,
        last_checked_out=last_out,
        unreadable=" ".join(bad),
    )


def _strictest(one: Ticket, other: Ticket) -> Ticket:
    """What two rows of one ticket allow both. One that can't be read takes no part, but a cancellation does.

    The counters are those of one row, since they belong together: of the one that leaves fewer entries.
    """
    canceled = one.canceled or other.canceled
    if one.unreadable or other.unreadable:
        return (other if one.unreadable else one)._replace(canceled=canceled)
    fewest, most = sorted((one, other), key=_entries_left)
    return fewest._replace(
        external_barcode_id=fewest.external_barcode_id or most.external_barcode_id,
        checkin_allowed=one.checkin_allowed and other.checkin_allowed,
        canceled=canceled,
        expire_from=_of_both(min, one.expire_from, other.expire_from),
        valid_from=_of_both(max, one.valid_from, other.valid_from),
        valid_till=_of_both(min, one.valid_till, other.valid_till),
        last_checked_in=_of_both(max, one.last_checked_in, other.last_checked_in),
    )


def _entries_left(ticket: Ticket) -> tuple[int, int]:
    return left(ticket, NOTHING, reentry_after_checkout=False), -ticket.checked_in


def _of_both(
    choose: Callable[[datetime, datetime], datetime], one: datetime | None, other: datetime | None
) -> datetime | None:
    return choose(one, other) if one and other else one or other


def _is_of(row: _Row, sent: str) -> bool:
    return sent in (values.identifier(row.barcode_id), values.identifier(row.external_barcode_id))


def _usable_id(value: Loose) -> str:
    text = values.identifier(value) or ""
    return text if _ID.fullmatch(text) else ""


def _life(claims: dict[str, Loose]) -> timedelta | None:
    issued, ends = values.number(claims.get("iat")), values.number(claims.get("exp"))
    if issued is None or ends is None or max(abs(issued), abs(ends)) > _LATEST_S:
        return None
    return timedelta(seconds=ends - issued) if 0 < ends - issued < 10 * 366 * 86_400 else None
