"""The overlay: what the journal knows of a ticket and the mirror does not show yet.

Only movements that are not settled take part. A movement is settled when the ticket's row came in a download
that was asked for at least ``SETTLING`` after the server acknowledged the movement; from then on the server's
row is the truth, an organiser's reset included. Times in the rows are no evidence: a server may process an
upload late and show an old count for a while (the API's document promises nothing about it).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from gated.core.scan import Direction
from gated.core.ticket import Ticket

# How long a server may take to show an acknowledged upload in its rows. Our choice: the document is silent.
SETTLING = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Movement:
    """One admitted, unsettled entry or exit of this gate. ``mirror_count`` is what the mirror showed then."""

    direction: Direction
    acknowledged: bool
    mirror_count: int
    time: datetime
    lane: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """The sum of a ticket's unsettled movements, oldest first, and the lapsed grant that waits, if any."""

    acknowledged: int = 0
    pending: int = 0
    first_count: int = 0
    exits: int = 0
    last_entry: Movement | None = None
    last: Movement | None = None
    lapsed: bool = False

    @property
    def entries(self) -> int:
        """Unsettled entries of this gate, acknowledged or not."""
        return self.acknowledged + self.pending


NOTHING = Overlay()


def overlay_of(movements: Iterable[Movement], *, lapsed: bool = False) -> Overlay:
    """The overlay of a ticket's unsettled movements, oldest first."""
    acknowledged = pending = exits = first_count = 0
    last_entry = last = None
    for movement in movements:
        last = movement
        if movement.direction is Direction.EXIT:
            exits += 1
            continue
        if last_entry is None:
            first_count = movement.mirror_count
        last_entry = movement
        if movement.acknowledged:
            acknowledged += 1
        else:
            pending += 1
    return Overlay(acknowledged, pending, first_count, exits, last_entry, last, lapsed)


def used(ticket: Ticket, overlay: Overlay) -> int:
    """How often the ticket was checked in, as far as server and gate together know."""
    if not overlay.entries:
        return ticket.checked_in
    return max(ticket.checked_in, overlay.first_count + overlay.acknowledged) + overlay.pending


def left(ticket: Ticket, overlay: Overlay, *, reentry_after_checkout: bool) -> int:
    """How many entries the ticket has left; zero or less is none.

    ``remaining_scans`` leads; where it is missing, ``validation_max_checkins``; where both are, one entry.
    """
    taken = used(ticket, overlay)
    if ticket.remaining is not None:
        entries = ticket.remaining - (taken - ticket.checked_in)
    elif ticket.max_checkins is not None:
        entries = ticket.max_checkins - taken
    else:
        entries = 1 - taken
    return entries + (min(overlay.exits, taken) if reentry_after_checkout else 0)
