"""Readers: each turns one TOML value into a value of ours, or says what is wrong with it.

A reader is called with whatever :mod:`tomllib` found, and raises :class:`Wrong` with words that go on after
the key's name: "must be 100 to 3000 (milliseconds)". Only choices repeat what was written: elsewhere a
secret may have been put in the wrong place. Nothing is read but the system's list of time zones.
"""

import ipaddress
import math
import re
import zoneinfo
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from gated.core.own_signals import SHORTEST_FLASH, too_fast
from gated.core.signals import PATTERNS, Pattern

T = TypeVar("T")
Reader = Callable[[object], object]

_KINDS: dict[type, str] = {
    bool: "true or false, without quotes",
    int: "a whole number, without quotes",
    str: 'text in "quotes"',
    list: "a list in [ ]",
}
_WORDS = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # what can be shown on one line


class Wrong(ValueError):
    """This value can't be used; the message says why."""


def near(word: str, words: Iterable[str]) -> str:
    """``; did you mean pulse_ms?``, or nothing when no word is near."""
    found = get_close_matches(word, list(words), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def typed(value: object, kind: type[T], what: str = "") -> T:
    """``value`` if it is exactly of ``kind``, for true is no number. ``what`` says more of what is right."""
    if type(value) is not kind:
        raise Wrong(f"must be {_KINDS[kind]}" + (f": {what}" if what else ""))
    return value


def flag(value: object) -> bool:
    """true or false."""
    return typed(value, bool)


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of an enum."""

    enum: type[StrEnum]

    def __call__(self, value: object) -> StrEnum:
        words = [str(member) for member in self.enum]
        if value not in words:
            hint = near(value, words) if isinstance(value, str) else ""
            raise Wrong("must be " + " or ".join(f'"{word}"' for word in words) + hint)
        return self.enum(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``; ``why`` explains the range."""

    low: int
    high: int
    unit: str
    why: str = ""

    def __call__(self, value: object) -> int:
        span = f"{self.low} to {self.high} ({self.unit})"
        number = typed(value, int, span)
        if not self.low <= number <= self.high:
            raise Wrong(f"must be {span}" + (f": {self.why}" if self.why else ""))
        return number


@dataclass(frozen=True, slots=True)
class Span:
    """A duration written as a whole number of ``unit``: milliseconds or minutes."""

    unit: str
    low: int
    high: int
    why: str = ""

    _SUFFIXES: ClassVar = {"milliseconds": "_ms", "minutes": "_minutes"}

    @property
    def suffix(self) -> str:
        """What the key's name ends in, so that nobody has to guess the unit."""
        return str(self._SUFFIXES[self.unit])

    def __call__(self, value: object) -> timedelta:
        return timedelta(**{self.unit: Whole(self.low, self.high, self.unit, self.why)(value)})


@dataclass(frozen=True, slots=True)
class Range:
    """The shortest and the longest of a duration, both as ``each`` reads it: ``[200, 1000]``."""

    each: Span

    @property
    def suffix(self) -> str:
        """As of one duration."""
        return self.each.suffix

    def __call__(self, value: object) -> tuple[timedelta, timedelta]:
        what = "the shortest and the longest, as [200, 1000]"
        numbers = typed(value, list, what)
        if len(numbers) != 2:
            raise Wrong(f"must be a list in [ ]: {what}")
        try:
            low, high = map(self.each, numbers)
        except Wrong as wrong:
            raise Wrong(f"has a number that {wrong}") from None
        if low > high:
            raise Wrong(f"must be {what}: the first is the longer one")
        return low, high


@dataclass(frozen=True, slots=True)
class Play:
    """A pattern by its name, or as ``on/off`` in milliseconds, ``on/offx3`` if it is to end.

    A lamp's must not flash more than three times in a second, as faster flashes can cause fits.
    """

    lamp: bool

    def __call__(self, value: object) -> Pattern:
        what = 'a pattern, as "steady", "500/500" (milliseconds on/off) or "100/150x3" (that three times)'
        text = typed(value, str, what)
        pattern = PATTERNS.get(text) or _played(text)
        if pattern is None:
            raise Wrong(f"must be {what}{near(text, PATTERNS)}")
        if self.lamp and too_fast(pattern):
            least = math.ceil(SHORTEST_FLASH / timedelta(milliseconds=1))
            raise Wrong(
                "must not flash more than three times in a second, which can cause fits: on and off together "
                f"last {least} milliseconds or more"
            )
        return pattern


def _played(text: str) -> Pattern | None:
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})(?:x([1-9][0-9]?))?", text)
    if match is None:
        return None
    on, off = (timedelta(milliseconds=int(each)) for each in match.group(1, 2))
    return Pattern(on, off, int(match[3]) if match[3] else None) if on or off else None


@dataclass(frozen=True, slots=True)
class Pin:
    """A GPIO number of the 40-pin header. An output's must do nothing of its own while the Pi starts."""

    output: bool

    # Raspberry Pi documentation, "GPIO and the 40-pin header"; the pull-ups measure 1.8 kiloohm.
    _TAKEN: ClassVar = {
        **dict.fromkeys((0, 1), "belong to the HAT's EEPROM"),
        **dict.fromkeys((2, 3), "have fixed pull-ups"),
        **dict.fromkeys((14, 15), "carry the boot console"),
    }

    def __call__(self, value: object) -> int:
        pin = Whole(0, 27, "GPIO number, not the place on the header")(value)
        if self.output and pin in self._TAKEN:
            pair = pin // 2 * 2
            raise Wrong(
                f"can't be {pin}: {pair} and {pair + 1} {self._TAKEN[pin]}, so an output would move by itself"
            )
        return pin


@dataclass(frozen=True, slots=True)
class Text:
    """Text that wholly fits ``pattern``; ``what`` says so in words."""

    pattern: str
    what: str

    def __call__(self, value: object) -> str:
        text = typed(value, str, self.what)
        if not re.fullmatch(self.pattern, text):
            raise Wrong(f"must be {self.what}")
        return text


def words(longest: int) -> Text:
    """Text on one line that is neither empty nor begins or ends with a blank."""
    return Text(
        rf"(?! )(?!.* $){_WORDS}{{1,{longest}}}",
        f"1 to {longest} characters on one line, no blank at its ends",
    )


@dataclass(frozen=True, slots=True)
class Many:
    """A list of which ``each`` reads the elements; twice the same is a mistake."""

    each: Callable[[object], str]

    def __call__(self, value: object) -> tuple[str, ...]:
        read = []
        for index, element in enumerate(typed(value, list)):
            try:
                read.append(self.each(element))
            except Wrong as wrong:
                raise Wrong(f"has a wrong element [{index}], which {wrong}") from None
        if len(set(read)) < len(read):
            raise Wrong("names something twice")
        return tuple(read)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few numbers."""

    numbers: tuple[float, ...]

    def __call__(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in self.numbers:
            raise Wrong("must be " + " or ".join(f"{number:g}" for number in self.numbers))
        return float(value)


def absolute_path(value: object) -> Path:
    """The path of a file or folder, from the root."""
    return Path(Text(rf"/{_WORDS}*", 'an absolute path: it begins with "/"')(value))


def device(value: object) -> str:
    """Where a scanner is: a path, or ``socket://host:port`` for one in the network."""
    text = typed(value, str)
    is_path = re.fullmatch(rf"/{_WORDS}+", text)
    if not is_path and not (text.startswith("socket://") and _address(text[9:]).port):
        raise Wrong('must be an absolute path, as "/dev/serial/by-id/...", or "socket://host:port"')
    return text


def listen(value: object) -> str:
    """``host:port``."""
    text = typed(value, str)
    if not _address(text).port:
        raise Wrong('must be "host:port"')
    return text


def host(value: object) -> str:
    """The name of a host, without a port, in small letters."""
    name, port = _address(typed(value, str))
    if port:
        raise Wrong("must be without a port")
    return name.lower()


def base_url(value: object) -> str:
    """An https address; plain http only to this machine itself. Without the slash at its end."""
    text = typed(value, str).rstrip("/")
    scheme, _, rest = text.partition("://")
    if "@" in rest:
        raise Wrong("must hold no user name and no password: they have keys of their own")
    if scheme not in ("https", "http") or not re.fullmatch(r"[!-~]+", text) or set("?#") & set(rest):
        raise Wrong('must be an address as "https://api.cm.com/scanapi/v2.0", without ? and #')
    name, _port = _address(rest.partition("/")[0])
    if scheme == "http" and not _is_loopback(name):
        raise Wrong("must begin with https:// (http:// is for a server on this machine only)")
    return text


def time_zone(value: object) -> str:
    """A name of the system's time zone database, as ``Europe/Amsterdam``."""
    text = typed(value, str)
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = near(text, zoneinfo.available_timezones())
        raise Wrong(f'must be a time zone, as "Europe/Amsterdam"{hint}') from None
    return text


class _Address(NamedTuple):
    host: str
    port: int = 0  # none was given


def _address(text: str) -> _Address:
    """``host`` or ``host:port``, where host is a name, an IPv4 address, or an IPv6 address in brackets."""
    match = re.fullmatch(r"(?:([\w.-]+)|\[([\w:.]+)\])(?::([1-9][0-9]{0,4}))?", text, re.ASCII)
    if match is None or not (match[1] is None or re.fullmatch(r"\w.*(?<!-)", match[1])):
        raise Wrong('must name a host, and if a port then as in "host:8080"')
    port = int(match[3] or 0)
    if port > 65535:
        raise Wrong("must name a port of 1 to 65535")
    if match[2] and not _is_ipv6(match[2]):
        raise Wrong("must name an IPv6 address between [ and ]")
    return _Address(match[1] or match[2], port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
