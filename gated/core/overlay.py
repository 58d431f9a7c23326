"""The overlay: what the journal knows of a ticket and the mirror does not show yet.

Only movements that are not settled take part. A movement is settled when the ticket's row came in a download
that was asked for at least ``SETTLING`` after the server acknowledged the movement, and no older one of its
direction is unsettled; from then on the server's row is the truth, an organiser's reset included. Times in
the rows are no evidence: a server may process an upload late and show an old count for a while (the API's
document promises nothing about it).
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
    """One admitted, unsettled entry or exit of this gate.

    ``count_before`` is how often the ticket had been checked in until then and ``left_before`` how many
    entries it had left, as far as server and gate together knew: a settled movement may have been part of it.
    """

    direction: Direction
    acknowledged: bool
    count_before: int
    left_before: int
    time: datetime
    lane: str
    newer: bool = False
    """Acknowledged after the ticket's row was asked for: the row does not show it."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The sum of a ticket's unsettled movements, and the lapsed grant that waits, if any.

    ``acknowledged`` and ``pending`` are entries, ``newer`` are those of the acknowledged ones that the
    ticket's row can't show; ``unsent`` are movements of either direction that the server has not
    acknowledged.
    """

    acknowledged: int = 0
    newer: int = 0
    pending: int = 0
    exits: int = 0
    unsent: int = 0
    first: Movement | None = None
    first_entry: Movement | None = None
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
    moved = tuple(movements)
    entries = tuple(each for each in moved if each.direction is Direction.ENTRY)
    acknowledged = sum(each.acknowledged for each in entries)
    return Overlay(
        acknowledged=acknowledged,
        newer=sum(each.acknowledged and each.newer for each in entries),
        pending=len(entries) - acknowledged,
        exits=len(moved) - len(entries),
        unsent=sum(not each.acknowledged for each in moved),
        first=moved[0] if moved else None,
        first_entry=entries[0] if entries else None,
        last_entry=entries[-1] if entries else None,
        last=moved[-1] if moved else None,
        lapsed=lapsed,
    )


def used(ticket: Ticket | None, overlay: Overlay) -> int:
    """How often the ticket was checked in, as far as server and gate together know."""
    counted = ticket.checked_in if ticket else 0
    if overlay.first_entry is None:
        return counted
    perhaps_shown = overlay.acknowledged - overlay.newer
    return max(counted, overlay.first_entry.count_before + perhaps_shown) + overlay.newer + overlay.pending


def exceeds(ticket: Ticket) -> bool:
    """Whether the server itself shows more check-ins than the ticket allows."""
    if ticket.remaining is not None and ticket.remaining < 0:
        return True
    if ticket.max_checkins is not None:
        return 0 < ticket.max_checkins < ticket.checked_in
    return ticket.remaining is None and ticket.checked_in > 1


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
    return entries + _owed(overlay, taken, entries) if reentry_after_checkout else entries


def _owed(overlay: Overlay, taken: int, entries: int) -> int:
    """Entries that check-outs here give back, less those that the server's row already has back.

    What the row has more than could be expected of it is taken for given back, so that none is given twice.
    """
    if overlay.first is None:
        return 0
    # A server that counts one less at a check-out hides an entry made since: the journal does not.
    since = max(0, taken - overlay.first.count_before, overlay.entries)
    expected = overlay.first.left_before - since
    return max(0, overlay.exits - max(0, entries - expected))
