"""One JSON value in any of the forms that PHP and MySQL give it, read into what it means. Pure: no clock.

- ``flag``, ``count``, ``moment`` and ``key`` add their field's name to ``bad`` when the value can't be read,
  and give back what admits least.
- A time without a zone is UTC, as the status texts of the API say. A time that stands for none is None.
- ``None`` from the other readers means: not that kind of value.

The forms are those of json_encode, PHP's DateTime and MySQL's columns; the Ticket Scan API's document shows
only null, 0, 1 and integers, and says nothing of time formats. Zone names are the system's (IANA).
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

Loose = Any
"""Whatever JSON can hold."""

# PHP_INT_MAX and its like stand for "no limit"; a round number keeps sums within every database's integers.
_MANY = 1_000_000_000

# Characters of a name or a text that are kept: as many as a ticket type has room for in the configuration.
_MOST_SHOWN = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 1e11  # as seconds that would be the year 5138
_FIRST_YEAR, _LAST_YEAR, _NEVER_YEAR = 2000, 2100, 9999  # MySQL's last year is how "never" is often written
_EARLIEST_S = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp()
_LATEST_S = datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()
_NO_DATES = ("0000-00-00", "-0001-11-30")  # MySQL's zero date, and the same after PHP's DateTime read it
_END_OF_DAY = timedelta(hours=23, minutes=59, seconds=59)

_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9})?")
_FLAGS = {1: True, 0: False, "1": True, "0": False, "true": True, "false": False, "": False}


def flag(value: Loose, name: str, bad: list[str]) -> bool:
    """True or false; a missing one is false."""
    if value is None:
        return False
    try:
        return _FLAGS[value.strip().lower() if type(value) is str else value]
    except (KeyError, TypeError):  # TypeError: a list or an object
        bad.append(name)
        return False


def count(value: Loose, name: str, bad: list[str]) -> int | None:
    """A number of scans, 0 to a thousand million; None for a missing one. Below zero is zero."""
    if value is None or value == "":
        return None
    number = value if type(value) is int else whole(value)
    if number is None:
        bad.append(name)
        return None
    return 0 if number < 0 else min(number, _MANY)


def moment(value: Loose, name: str, bad: list[str], *, end_of_day: bool = False) -> datetime | None:
    """An aware UTC time, or None. A date alone is its first second, or its last with ``end_of_day``."""
    if value is None:
        return None
    try:
        if type(value) is str:
            return _from_text(value, end_of_day)
        return _from_other(value, end_of_day)
    except (ValueError, OverflowError):  # OverflowError: a zone moves the year 9999 or 1 out of the calendar
        bad.append(name)
        return None


def key(value: Loose, name: str, bad: list[str]) -> str:
    """An id as text, blank for a missing one."""
    if value is None:
        return ""
    text = identifier(value)
    if text is None:
        bad.append(name)
        return ""
    return text


def identifier(value: Loose) -> str | None:
    """An id as text. A float is refused: digits may be lost, and the ticket of another person hit."""
    if type(value) is str:
        return value.strip()
    if type(value) is int and abs(value) < 10**128:  # a scan has at most 128 characters
        return str(value)
    return None


def display(value: Loose) -> str:
    """For display, and cut for it; what is no text or number shows as nothing."""
    if type(value) is str:
        return value[:_MOST_SHOWN]
    return str(value) if type(value) in (int, float) else ""


def printable(text: str, length: int) -> str:
    """At most ``length`` characters that can't disturb a log, a terminal or a display."""
    return "".join(each if each.isprintable() else " " for each in text[: 2 * length]).strip()[:length]


def number(value: Loose) -> int | float | None:
    """A number, or text that writes one."""
    if type(value) is str:
        return _written_number(value)
    return value if type(value) in (int, float) else None


def whole(value: Loose) -> int | None:
    """A whole number, or text that writes one."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def elements(listing: Loose) -> list[Loose]:
    """A list, which PHP writes as an object with numeric keys when it has gaps. Raises ValueError."""
    if isinstance(listing, list):
        return listing
    if isinstance(listing, dict):
        return list(listing.values())
    if listing is None:
        return []
    raise ValueError("neither a list nor an object")


# The same few counts and the same few windows stand in every row of an event: both caches are for speed.


@lru_cache(maxsize=1024)
def _written_number(text: str) -> int | float | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    return float(text) if "." in text else int(text)


@lru_cache(maxsize=1024)
def _from_text(text: str, end_of_day: bool) -> datetime | None:
    seconds = _written_number(text)
    if seconds is not None:
        return _from_epoch(seconds)
    return _from_date(text.strip().removesuffix(" UTC"), UTC, end_of_day=end_of_day)


def _from_other(value: Loose, end_of_day: bool) -> datetime | None:
    seconds = number(value)
    if seconds is not None:
        return _from_epoch(seconds)
    if value in ([], {}):
        return None
    if isinstance(value, dict) and isinstance(value.get("date"), str):  # PHP's DateTime
        return _from_date(value["date"], _zone(value.get("timezone", "UTC")), end_of_day=end_of_day)
    raise ValueError("no time")


def _from_epoch(seconds: float) -> datetime | None:
    if not seconds:
        return None
    if abs(seconds) >= _MILLISECONDS_FROM:
        seconds /= 1000
    if not _EARLIEST_S <= seconds < _LATEST_S:
        raise ValueError("not in this century")
    return datetime.fromtimestamp(seconds, UTC)


def _from_date(text: str, zone: tzinfo, *, end_of_day: bool) -> datetime | None:
    """ISO 8601 or MySQL's form; without a zone of its own the text is in ``zone``."""
    if not text or text.startswith(_NO_DATES):
        return None
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        read = read.replace(tzinfo=zone)
    read = read.astimezone(UTC)
    if read == _EPOCH:  # how date() writes a missing time
        return None
    if not _FIRST_YEAR <= read.year <= _LAST_YEAR and read.year != _NEVER_YEAR:
        raise ValueError("not in this century")
    if end_of_day and len(text) == len("2026-07-16"):
        return read + _END_OF_DAY
    return read


def _zone(name: Loose) -> tzinfo:
    """PHP's time zones: an offset, an abbreviation or an IANA name. Raises ValueError."""
    if not isinstance(name, str):
        raise ValueError("no time zone")
    if name[:1] in ("+", "-"):
        zone = datetime.fromisoformat(f"2000-01-01T00:00{name}").tzinfo
    elif name in ("Z", "UTC", "GMT"):
        zone = UTC
    else:
        zone = _named_zone(name)
    if zone is None:
        raise ValueError("no time zone")
    return zone


def _named_zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError) as error:  # KeyError: not found; OSError: the name of a directory
        raise ValueError("no such time zone") from error
