"""How the server writes: the document's bodies, with the habits of PHP and MySQL turned on one by one.

The default of every habit is what the document's examples show. The others are what such a backend is known
to write and the document does not rule out, so that a gate can be tried against each.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from gated.api.simulator.event import Event, Outcome, Page, Service
from gated.api.simulator.rules import Ticket

FLAGS = ("is_checkin_allowed", "is_canceled")
TIMES = (
    "expire_from",
    "checkin_valid_from",
    "checkin_valid_till",
    "last_checked_in_time",
    "last_checked_out_time",
)

Body = dict[str, object]


class Times(StrEnum):
    """How a time in a ticket's row is written."""

    EPOCH = "epoch"  # 1594912228, as in the document's upload
    EPOCH_MS = "epoch_ms"  # 1594912228000
    ISO = "iso"  # 2020-07-16T15:10:28+00:00
    NAIVE = "naive"  # 2020-07-16 15:10:28, MySQL's, UTC
    PHP = "php"  # a DateTime as json_encode writes it


class Refusals(StrEnum):
    """How a direct check-in or check-out that is refused is answered."""

    ROW_201 = "row_201"  # 201, the code in the ticket's row
    ROW_400 = "row_400"  # 400, the same body
    MESSAGE_400 = "message_400"  # 400 and the text as an info message


class AnsweredRows(StrEnum):
    """Which rows a direct check-in or check-out is answered with."""

    ASKED = "asked"
    TWO = "two"  # the one asked for, and another
    ANOTHER = "another"  # only another


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Choices of the server that the document leaves open. The defaults follow its examples."""

    # How values are written
    times: Times = Times.EPOCH
    zero_dates: bool = False  # no time is "0000-00-00 00:00:00", not null
    booleans: bool = False  # flags are true and false, not 1 and 0
    numbers_as_strings: bool = False
    php_lists: bool = False  # lists are objects with numbers for keys
    barcodes_as_numbers: bool = False  # a barcode of digits alone is a number
    gzip: bool = False  # bodies are compressed where the client accepts it
    # Login and services
    token_life_s: float = 5_184_300  # sixty days and five minutes, as in the document's example
    expired_token_as_400: bool = False
    second_login_revokes: bool = False
    user_active: bool = True
    two_users: bool = False  # the token's sub and its user.uuid are not the same
    service_missing: bool = False
    permissions: tuple[str, ...] | None = ("checkin", "checkout", "lookup")  # None: the key is missing
    # Lists
    delta_ignores_header: bool = False
    next_page_loops: bool = False  # next_page is the page itself
    total_items_off_by: int = 0
    # Direct scans
    refusals: Refusals = Refusals.ROW_201
    answered_rows: AnsweredRows = AnsweredRows.ASKED
    code_as_string: bool = False
    answer_code: int | None = None  # this code, whatever came of it
    answer_text: str | None = None  # this text, whatever came of it
    orders_check_in: bool = False  # the number of an order checks in all its tickets
    checkout_returns_entry: bool = False
    # Uploads
    deduplicate_uploads: bool = False
    poisonous_barcodes: frozenset[str] = frozenset()  # an upload with one of them is answered 400
    max_upload_rows: int | None = None  # more are answered 413
    # The clock
    no_date_header: bool = False
    clock_offset_s: float = 0.0


def info(message: str) -> Body:
    """The document's info message."""
    return {"info": {"message": message}}


def services_body(event: Event, url: str, habits: Habits) -> Body:
    """The scan services of the user: the event's, if it is not missing, and the others."""
    totals = event.types()
    services = [] if habits.service_missing else [_service(event.service, totals, url, habits)]
    services += [_service(service, [], url, habits) for service in event.other_services]
    return {"services": services}


def _service(service: Service, totals: list[tuple[str, str, int]], url: str, habits: Habits) -> Body:
    permissions = [
        {"uuid": f"00000000-0000-0000-0000-{number:012}", "name": name, "description": f"can {name}"}
        for number, name in enumerate(habits.permissions or (), 1)
    ]
    types = [
        {"ticket_type_hash_id": hash_id, "ticket_type": name, "total_available": total}
        for hash_id, name, total in totals
    ]
    return {
        "uuid": service.uuid,
        "name": service.name,
        "description": service.description,
        "setup": service.setup,
        "information_level": service.information_level,
        "sync_interval": service.sync_interval,
        "url": f"{url}/",  # with a slash at the end, as in the document
        "count_total_available": sum(total for _, _, total in totals),
        **({} if habits.permissions is None else {"permissions": permissions}),
        "ticket_types": types,
    }


def barcodes_body(page: Page, number: int, limit: int, habits: Habits) -> Body:
    """Page ``number`` of a list of tickets with ``limit`` a page."""
    last = max(1, -(-page.total // limit))
    following = number + 1 if number < last else None
    return {
        "pagination": {
            "total_items": page.total + habits.total_items_off_by,
            "total_pages": last,
            "page_items": len(page.tickets),
            "pages": {
                "current_page": number,
                "first_page": 1,
                "last_page": last,
                "previous_page": number - 1 if number > 1 else None,
                "next_page": number if habits.next_page_loops else following,
            },
        },
        "barcodes": [row(ticket, habits) for ticket in page.tickets],
    }


def outcomes_body(outcomes: list[Outcome], habits: Habits) -> Body:
    """The answer to a direct check-in or check-out."""
    rows = [_outcome_row(outcome, habits) for outcome in outcomes]
    another = rows[0] | {"barcode_id": "GATED-ANOTHER", "external_barcode_id": None}
    if habits.answered_rows is AnsweredRows.TWO:
        rows.append(another)
    elif habits.answered_rows is AnsweredRows.ANOTHER:
        rows = [another]
    return {"barcodes": rows}


def _outcome_row(outcome: Outcome, habits: Habits) -> Body:
    code = outcome.code if habits.answer_code is None else habits.answer_code
    written = _unknown_row(outcome.barcode) if outcome.ticket is None else row(outcome.ticket, habits)
    written["scan_status_code"] = str(code) if habits.code_as_string else code
    written["scan_status_message"] = habits.answer_text or outcome.message
    return written


def _unknown_row(barcode: str) -> Body:
    return dict.fromkeys(Ticket.__struct_fields__) | {"barcode_id": barcode}


def row(ticket: Ticket, habits: Habits) -> Body:
    """A ticket as a row of ``barcodes``."""
    written: Body = msgspec.structs.asdict(ticket)
    written["scan_status_code"] = written["scan_status_message"] = None
    if habits.times is not Times.EPOCH or habits.zero_dates:
        written |= {name: _time(getattr(ticket, name), habits) for name in TIMES}
    if habits.booleans:
        written |= {name: bool(written[name]) for name in FLAGS}
    if habits.barcodes_as_numbers and ticket.barcode_id.isdecimal():
        written["barcode_id"] = int(ticket.barcode_id)
    return written


def _time(moment: int | None, habits: Habits) -> object:
    if moment is None:
        return "0000-00-00 00:00:00" if habits.zero_dates else None
    at = datetime.fromtimestamp(moment, UTC)
    match habits.times:
        case Times.EPOCH:
            return moment
        case Times.EPOCH_MS:
            return moment * 1000
        case Times.ISO:
            return at.isoformat()
        case Times.NAIVE:
            return f"{at:%Y-%m-%d %H:%M:%S}"
        case Times.PHP:
            return {"date": f"{at:%Y-%m-%d %H:%M:%S.%f}", "timezone_type": 3, "timezone": "UTC"}


def encode(body: Body, habits: Habits) -> bytes:
    """A body as JSON."""
    if habits.numbers_as_strings or habits.php_lists:
        return msgspec.json.encode(_as_php(body, habits))
    return msgspec.json.encode(body)


def _as_php(value: object, habits: Habits) -> object:
    if isinstance(value, dict):
        return {key: _as_php(part, habits) for key, part in value.items()}
    if isinstance(value, list):
        parts = [_as_php(part, habits) for part in value]
        # PHP writes an object for a list whose keys do not begin at 0, as after array_filter.
        return {str(key): part for key, part in enumerate(parts, 1)} if habits.php_lists and parts else parts
    if habits.numbers_as_strings and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value
