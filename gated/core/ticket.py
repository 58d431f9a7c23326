"""A ticket: a row of the API's ``barcodes``, read into what the rules need and no more.

Names, email, mobile, city and price are never part of it.
"""

from datetime import datetime
from typing import NamedTuple


class Ticket(NamedTuple):
    """What one barcode stands for, as the server last told it. Times are aware UTC.

    A named tuple, since it is made in a third of a frozen dataclass's time, a million times in a download.
    """

    barcode_id: str
    external_barcode_id: str | None = None
    batch_id: str = ""
    """The number of its order, which is no ticket; blank in a ticket that was read from the mirror."""
    type_id: str = ""
    type_name: str = ""
    subtitle: str = ""
    section: str = ""
    row: str = ""
    seat: str = ""
    checkin_allowed: bool = False
    canceled: bool = False
    expire_from: datetime | None = None
    valid_from: datetime | None = None
    valid_till: datetime | None = None
    max_checkins: int | None = None
    remaining: int | None = None
    checked_in: int = 0
    last_checked_in: datetime | None = None
    last_checked_out: datetime | None = None
    unreadable: str = ""
    """Names of the fields that could not be read, blank when all could: such a row is ``bad_data``."""
