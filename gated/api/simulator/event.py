"""The server's truth: the tickets of one scan service, and everything that happened to them.

Every public method takes the one lock, and hands out copies. All times are epoch seconds, UTC, of the
server's clock. When check-ins are uploaded out of order the latest time stays, and none is ever undone.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from gated.api.simulator.rules import Ticket, entry_code, exit_code, message

# The event finds, counts and orders tickets by these.
FIXED = {"barcode_id", "external_barcode_id", "ticket_type", "ticket_type_hash_id", "serial_number"}


@dataclass(slots=True, kw_only=True)
class Service:
    """A scan service, as the organiser set it up. ``sync_interval`` is taken for seconds."""

    uuid: str = "5d1f8f0e-6a0b-4d53-8d0c-000000000001"
    name: str = "Main entrance"
    description: str = "scan service for: a made-up event"
    setup: int = 2
    information_level: int = 1
    sync_interval: int = 15


class Origin(StrEnum):
    """How a movement reached the server."""

    DIRECT = "direct"
    UPLOAD = "upload"


class Movement(msgspec.Struct, frozen=True):
    """A check-in or check-out that the server counted; ``at`` is its time, epoch seconds."""

    barcode_id: str
    checked_in: bool
    at: int
    origin: Origin


class UploadedScan(msgspec.Struct, frozen=True):
    """One row of an upload, as its body has it."""

    barcode_id: str
    checked_in_time: int
    status_code: int
    status_message: str


class Received(msgspec.Struct, frozen=True):
    """An uploaded row as the server keeps it; ``at`` is when it came, epoch seconds of the server's clock."""

    at: float
    scan: UploadedScan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a direct check-in or check-out came to. ``ticket`` is a copy, and None where there is none."""

    barcode: str
    code: int
    message: str
    ticket: Ticket | None

    @property
    def admitted(self) -> bool:
        """Whether the code is one that admits."""
        return self.code in {100, 200}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of tickets, copies all, in the order of their sale, and how many there are on all pages."""

    tickets: list[Ticket]
    total: int


def _later(one: int | None, other: int) -> int:
    return other if one is None else max(one, other)


@dataclass
class Event:
    """One scan service and its tickets, all on sale since ``on_sale``; ``menu`` describes those worth trying.

    ``tickets`` is there to be read; a change goes through a method, which stamps the row's modification time.
    A simulator that serves the event sets ``clock`` to its own.
    """

    service: Service
    on_sale: float
    tickets: dict[str, Ticket] = field(default_factory=dict)
    menu: tuple[tuple[str, str], ...] = ()
    other_services: list[Service] = field(default_factory=list)
    """Further services of the same scan user, without tickets."""
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._order: list[Ticket] = []  # the tickets again, for slices
        self._by_external: dict[str, Ticket] = {}
        self._inside: set[str] = set()
        self._modified: dict[str, float] = {}  # of those changed since they went on sale
        self._types: Counter[tuple[str, str]] = Counter()
        self._received: list[Received] = []
        self._seen: set[tuple[str, int, int]] = set()
        self._movements: list[Movement] = []
        for ticket in self.tickets.values():
            self._enter(ticket)

    # What the organiser does

    def add_ticket(self, ticket: Ticket) -> None:
        """Sells a ticket. Raises ValueError if its barcode is taken."""
        with self._lock:
            if ticket.barcode_id in self.tickets:
                raise ValueError(f"there is a ticket {ticket.barcode_id} already")
            sold = copy(ticket)
            self.tickets[sold.barcode_id] = sold
            self._enter(sold)
            self._stamp(sold)

    def remove(self, barcode_id: str) -> None:
        """Takes a ticket away without a trace, as if deleted. Raises KeyError if there is none."""
        with self._lock:
            ticket = self.tickets.pop(barcode_id)
            self._order.remove(ticket)
            self._modified.pop(barcode_id, None)
            self._inside.discard(barcode_id)
            self._types[ticket.ticket_type_hash_id, ticket.ticket_type] -= 1
            if ticket.external_barcode_id is not None:
                del self._by_external[ticket.external_barcode_id]

    def cancel(self, barcode_id: str) -> None:
        """Cancels a ticket. Raises KeyError if there is none."""
        self.change(barcode_id, is_canceled=1)

    def reset(self, barcode_id: str) -> None:
        """Gives a ticket all its entries back. Raises KeyError if there is none."""
        with self._lock:
            ticket = self.tickets[barcode_id]
            ticket.count_checked_in = 0
            ticket.last_checked_in_time = ticket.last_checked_out_time = None
            if ticket.remaining_scans is not None:
                ticket.remaining_scans = ticket.validation_max_checkins or 1
            self._inside.discard(barcode_id)
            self._stamp(ticket)

    def change(self, barcode_id: str, /, **fields: object) -> None:
        """Changes fields of a ticket; its ids, type and serial number stay.

        Raises KeyError if there is no such ticket, ValueError if a field can't be changed so.
        """
        if fixed := fields.keys() & FIXED:
            raise ValueError(f"can't be changed: {', '.join(sorted(fixed))}")
        with self._lock:
            ticket = self.tickets[barcode_id]
            # Only to check the fields; msgspec's ValidationError is a ValueError.
            msgspec.convert(msgspec.structs.asdict(ticket) | fields, Ticket)
            for name, value in fields.items():
                setattr(ticket, name, value)
            self._stamp(ticket)

    # What the gates do

    def check_in(self, barcode: str) -> Outcome:
        """Checks in the ticket with this barcode or external barcode, if its time and its entries allow."""
        with self._lock:
            now = self.clock()
            ticket = self._find(barcode)
            code = entry_code(ticket, now)
            text = message(code, ticket, now)
            if ticket is not None and code == 100:
                self._came_in(ticket, int(now), Origin.DIRECT)
            return Outcome(barcode, code, text, copy(ticket))

    def check_out(self, barcode: str, *, returns_entry: bool = False) -> Outcome:
        """Checks out the ticket with this barcode if it is inside; ``returns_entry`` gives its entry back."""
        with self._lock:
            now = self.clock()
            ticket = self._find(barcode)
            code = exit_code(ticket, inside=ticket is not None and ticket.barcode_id in self._inside)
            if ticket is not None and code == 200:
                self._went_out(ticket, int(now), Origin.DIRECT)
                if returns_entry and ticket.remaining_scans is not None:
                    ticket.remaining_scans += 1
            return Outcome(barcode, code, message(code, ticket, now), copy(ticket))

    def upload(self, scans: Sequence[UploadedScan], *, deduplicate: bool = False) -> None:
        """Keeps every row; counts those with code 100 as check-ins and 200 as check-outs, whatever is left.

        ``deduplicate`` drops a row whose barcode, time and code have come before.
        """
        with self._lock:
            now = self.clock()
            for scan in scans:
                key = (scan.barcode_id, scan.checked_in_time, scan.status_code)
                if not (deduplicate and key in self._seen):
                    self._received.append(Received(now, scan))
                    self._apply(scan)
                self._seen.add(key)

    # What can be seen

    def page(self, number: int, limit: int, *, since: float | None = None) -> Page:
        """Page ``number`` (from 1), ``limit`` tickets each, of all or of those modified since ``since``."""
        with self._lock:
            listed = self._order if since is None or since <= self.on_sale else self._changed_since(since)
            wanted = listed[(number - 1) * limit : number * limit]
            return Page([copy(ticket) for ticket in wanted], len(listed))

    def order(self, batch_id: str) -> list[str]:
        """The barcodes of an order's tickets."""
        with self._lock:
            return [ticket.barcode_id for ticket in self._order if ticket.batch_id == batch_id]

    def types(self) -> list[tuple[str, str, int]]:
        """Each ticket type's hash id and name, and how many tickets it has."""
        with self._lock:
            return [(hash_id, name, total) for (hash_id, name), total in self._types.items()]

    @property
    def received(self) -> list[Received]:
        """Every uploaded row kept so far, oldest first."""
        with self._lock:
            return list(self._received)

    @property
    def movements(self) -> list[Movement]:
        """Every check-in and check-out counted so far, oldest first."""
        with self._lock:
            return list(self._movements)

    def _enter(self, ticket: Ticket) -> None:
        ticket.serial_number = self._order[-1].serial_number + 1 if self._order else 1
        self._order.append(ticket)
        self._types[ticket.ticket_type_hash_id, ticket.ticket_type] += 1
        if ticket.external_barcode_id is not None:
            self._by_external[ticket.external_barcode_id] = ticket
        if ticket.last_checked_in_time is not None and ticket.last_checked_out_time is None:
            self._inside.add(ticket.barcode_id)

    def _find(self, barcode: str) -> Ticket | None:
        return self.tickets.get(barcode) or self._by_external.get(barcode)

    def _stamp(self, ticket: Ticket) -> None:
        self._modified[ticket.barcode_id] = self.clock()

    def _changed_since(self, since: float) -> list[Ticket]:
        # In the order of sale, not of change: a ticket that changes between two pages then moves none of the
        # others to a page already read.
        changed = [self.tickets[barcode_id] for barcode_id, at in self._modified.items() if at >= since]
        return sorted(changed, key=lambda ticket: ticket.serial_number)

    def _apply(self, scan: UploadedScan) -> None:
        ticket = self._find(scan.barcode_id)
        if ticket is None:
            return
        if scan.status_code == 100:
            self._came_in(ticket, scan.checked_in_time, Origin.UPLOAD)
        elif scan.status_code == 200:
            self._went_out(ticket, scan.checked_in_time, Origin.UPLOAD)

    def _came_in(self, ticket: Ticket, at: int, origin: Origin) -> None:
        ticket.count_checked_in += 1
        if ticket.remaining_scans is not None:
            ticket.remaining_scans = max(0, ticket.remaining_scans - 1)
        ticket.last_checked_in_time = _later(ticket.last_checked_in_time, at)
        if ticket.last_checked_out_time is None or at >= ticket.last_checked_out_time:
            self._inside.add(ticket.barcode_id)
        self._movements.append(Movement(ticket.barcode_id, True, at, origin))
        self._stamp(ticket)

    def _went_out(self, ticket: Ticket, at: int, origin: Origin) -> None:
        ticket.last_checked_out_time = _later(ticket.last_checked_out_time, at)
        if ticket.last_checked_in_time is None or at >= ticket.last_checked_in_time:
            self._inside.discard(ticket.barcode_id)
        self._movements.append(Movement(ticket.barcode_id, False, at, origin))
        self._stamp(ticket)
