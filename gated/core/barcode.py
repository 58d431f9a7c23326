r"""Bytes or key events in, barcodes out.

A barcode is 1 to 128 printable characters, exact and case-sensitive, without blanks at its ends. Three rules:

- Nothing that comes in raises, and what is kept of one frame is bounded: an over-long frame is skipped to
  its end, so that its tail can't become a second scan.
- A partial frame is dropped only when somebody vouches for a silence. A gap between two time stamps proves
  nothing: it may be this program that was held up, and half a barcode would be read as another ticket.
- A frame of nothing (the second half of CR LF, a bare terminator) is no scan; one of blanks is malformed.

Facts: key codes are positions of a US keyboard, from linux/input-event-codes.h. What scanners put round a
barcode (STX, NUL, AIM identifiers, ECI designators, no-read texts, Alt and decimal codes) is from the manuals
of Zebra, Honeywell, Datalogic, Cino and ZKTeco; AIM identifiers are ISO/IEC 15424.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

LONGEST = 128  # characters of a barcode; those of tickets have 8 to 40, a QR code can hold 7,089 digits

_ROUND = 64  # characters that may stand round a barcode besides the prefix: blanks, AIM, ECI
_IDLE = "\r\n\x00\x02"  # what precedes a frame and is none of it: the LF of CR LF, NUL as filler, STX
_BLANKS = " \t" + _IDLE
_NO_READS = frozenset({"NR", "%%NoRead", "NOREAD"})  # "I saw nothing": Honeywell, ZKTeco, others
_AIM = re.compile(r"\][A-Za-z][0-9]")
_ECI = re.compile(r"(?:\\[0-9]{6})+")


class Terminator(StrEnum):
    """What a scanner sends after a barcode."""

    CR = "cr"
    LF = "lf"
    CRLF = "crlf"
    TAB = "tab"
    ETX = "etx"


class Aim(StrEnum):
    """What to do with the AIM identifier (``]Q1``) before a barcode: a scanner sends it only if told to."""

    OFF = "off"  # it is not sent; a barcode may well begin with "]"
    STRIP = "strip"
    REQUIRE = "require"  # without one the frame is malformed


class MalformedWhy(StrEnum):
    """What is wrong with a frame that is no barcode."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    NOT_PRINTABLE = "not_printable"
    NOT_UTF8 = "not_utf8"
    NO_AIM = "no_aim"
    CHORD = "chord"  # a key pressed with Ctrl, Alt or Meta: how a barcode types commands
    KEYS_LOST = "keys_lost"  # the kernel had no room for some key events


@dataclass(frozen=True, slots=True)
class Barcode:
    """The text that was scanned, as :func:`read_text` passes it."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that is no barcode. ``length`` is in characters, or in bytes where it was not read as text."""

    why: MalformedWhy
    length: int


Read = Barcode | Malformed


@dataclass(frozen=True, slots=True)
class Framing:
    """How a scanner wraps a barcode. A ``prefix`` is taken off where it is there and missed nowhere.

    ``character_timeout``: silence after which the rest of a barcode will not come. Keyboard scanners send a
    character every 2 to 30 ms, at 9600 baud it is every 1 ms.
    """

    terminator: Terminator = Terminator.CR
    prefix: str = ""
    aim: Aim = Aim.OFF
    character_timeout: timedelta = timedelta(milliseconds=100)


def read_text(text: str) -> Read:
    """``text`` as a barcode, blanks taken off its ends, or what is wrong with it.

    Printable is what :meth:`str.isprintable` calls so: no control, format, private, unassigned or surrogate
    characters, no line separators, and no blank but the space.
    """
    text = text.strip(_BLANKS)
    if not text:
        return Malformed(MalformedWhy.EMPTY, 0)
    if len(text) > LONGEST:
        return Malformed(MalformedWhy.TOO_LONG, len(text))
    if not text.isprintable():
        return Malformed(MalformedWhy.NOT_PRINTABLE, len(text))
    return Barcode(text)


class ByteFramer:
    """Cuts the bytes of one serial scanner into barcodes. ``partials`` counts frames dropped unfinished."""

    def __init__(self, framing: Framing) -> None:
        self.partials = 0
        self._framing = framing
        self._end = _END_BYTES[framing.terminator]
        self._room = 4 * _room(framing)  # a character has up to four bytes in UTF-8
        self._kept = bytearray()
        self._length = 0  # bytes of the frame so far, kept or not
        self._last = 0.0

    def feed(self, data: bytes, at: float) -> list[Read]:
        """What ``data``, read at ``at`` (monotonic seconds), brings to an end."""
        self._last = at
        *ended, rest = data.split(self._end)
        reads = [read for piece in ended if (read := self._finish(piece)) is not None]
        if rest:
            self._append(rest)
        return reads

    @property
    def unfinished(self) -> bool:
        """Whether a silence would drop something."""
        return self._length > 0

    def silence(self, at: float) -> None:
        """Nothing more has come until ``at``: after the character time-out a partial frame is dropped."""
        if self._length and at - self._last >= self._framing.character_timeout.total_seconds():
            self.partials += 1
            self._restart()

    def _append(self, piece: bytes) -> None:
        if not self._length:
            piece = piece.lstrip(_IDLE_BYTES)
        self._length += len(piece)
        self._kept += piece[: self._room - len(self._kept)]

    def _finish(self, piece: bytes) -> Read | None:
        self._append(piece)
        frame, length = bytes(self._kept), self._length
        self._restart()
        if length > self._room:
            return Malformed(MalformedWhy.TOO_LONG, length)
        try:
            return _read_frame(frame.decode(), self._framing)
        except UnicodeDecodeError:
            return Malformed(MalformedWhy.NOT_UTF8, length)

    def _restart(self) -> None:
        self._kept.clear()
        self._length = 0


@dataclass(slots=True)
class _TypedFrame:
    """What was typed since the last frame ended."""

    kept: list[str] = field(default_factory=list)
    length: int = 0  # characters so far, kept or not
    digits: str = ""  # of a decimal code under way
    caps: bool = False
    spoilt: MalformedWhy | None = None

    @property
    def begun(self) -> bool:
        return bool(self.length or self.digits or self.spoilt)


class KeyFramer:
    """Cuts the key events of one HID scanner into barcodes. ``partials`` counts frames dropped unfinished.

    - Enter of either pad ends a frame, Tab where the terminator is ``tab``. A keyboard has no other one.
    - CapsLock turns the case of letters until it is pressed again or the frame ends: scanners press it round
      capitals, and what the computer's own CapsLock shows is none of their business.
    - Alt and a decimal code on the keypad is the character of that number, one to four digits, 0 to 255. Up
      to 127 all scanners agree; above, it is read as Latin-1.
    - Any other key with Ctrl, Alt or Meta held spoils the frame, and so does a key that has no character.
    """

    def __init__(self, framing: Framing) -> None:
        self.partials = 0
        self._framing = framing
        self._ends = "\t" if framing.terminator is Terminator.TAB else "\r\n"
        self._room = _room(framing)
        self._held: set[int] = set()
        self._last = 0.0
        self._frame = _TypedFrame()

    def press(self, code: int, value: int, at: float) -> Read | None:
        """What the key event brings to an end. ``value``: 1 pressed, 0 let go, 2 repeated by the kernel.

        ``at`` is when it was read, in monotonic seconds.
        """
        self._last = at
        if code in _MODIFIERS:
            return self._modify(code, value)
        if value != _PRESSED or code in _LOCKS:
            return None
        if code == KEY_CAPSLOCK:
            self._frame.caps = not self._frame.caps
            return None
        return self._type(code)

    @property
    def unfinished(self) -> bool:
        """Whether a silence would drop something, be it no more than CapsLock."""
        return self._frame.begun or self._frame.caps

    def silence(self, at: float) -> None:
        """Nothing more has come until ``at``: after the character time-out a partial frame is dropped."""
        if at - self._last < self._framing.character_timeout.total_seconds():
            return
        self.partials += self._frame.begun
        self._frame = _TypedFrame()

    def discard(self) -> None:
        """Key events were lost: what was typed is discarded, and so is the rest of its frame."""
        self._held.clear()
        self._frame = _TypedFrame(spoilt=MalformedWhy.KEYS_LOST)

    def _modify(self, code: int, value: int) -> Read | None:
        if value == _PRESSED:
            self._held.add(code)
        elif value == _LET_GO:
            self._held.discard(code)
            if self._frame.digits and not self._held & _ALTS:
                number, self._frame.digits = self._frame.digits, ""
                return self._take(_character_numbered(number))
        return None

    def _type(self, code: int) -> Read | None:
        chorded = self._held & _CHORDING
        if chorded and chorded <= _ALTS and code in _KEYPAD_DIGITS:
            self._frame.digits = (self._frame.digits + _KEYPAD_DIGITS[code])[: _MOST_DIGITS + 1]
            return None
        if chorded:
            self._frame.spoilt = self._frame.spoilt or MalformedWhy.CHORD
        return self._take(self._character(code))

    def _character(self, code: int) -> str:
        plain, shifted = US_KEYS.get(code, (_NO_CHARACTER, _NO_CHARACTER))
        shift = bool(self._held & _SHIFTS)
        return shifted if shift != (self._frame.caps and plain.isalpha()) else plain

    def _take(self, character: str) -> Read | None:
        if character in self._ends:
            return self._finish()
        frame = self._frame
        if frame.length or character not in _IDLE:
            frame.length += 1
            if len(frame.kept) < self._room:
                frame.kept.append(character)
        return None

    def _finish(self) -> Read | None:
        frame, self._frame = self._frame, _TypedFrame()
        if frame.spoilt:
            return Malformed(frame.spoilt, frame.length)
        if frame.length > self._room:
            return Malformed(MalformedWhy.TOO_LONG, frame.length)
        return _read_frame("".join(frame.kept), self._framing)


def _room(framing: Framing) -> int:
    """Characters of a frame that are kept: a longer one can't hold a barcode that is short enough."""
    return LONGEST + len(framing.prefix) + _ROUND


def _read_frame(text: str, framing: Framing) -> Read | None:
    """What a whole frame says: a barcode, something malformed, or nothing."""
    if not text:
        return None
    bare = _unwrap(text.strip(_BLANKS), framing)
    if bare is None:
        return Malformed(MalformedWhy.NO_AIM, len(text))
    read = read_text(bare)
    return None if isinstance(read, Barcode) and read.text in _NO_READS else read


def _unwrap(text: str, framing: Framing) -> str | None:
    r"""``text`` without prefix, AIM identifier and ECI designators; None if a required identifier is missing.

    Makers put the prefix before or after the identifier. ECI designators (``\000026``: "this is UTF-8") are
    taken off whatever ``aim`` says, as scanners send them by a setting of its own and no ticket begins so.
    """
    bare = text.removeprefix(framing.prefix)
    prefix_due = bare == text
    if framing.aim is not Aim.OFF:
        identified = _AIM.match(bare)
        if identified:
            bare = bare[identified.end() :]
        elif framing.aim is Aim.REQUIRE:
            return bare if bare in _NO_READS else None
    if prefix_due:
        bare = bare.removeprefix(framing.prefix)
    designated = bare.startswith("\\") and _ECI.match(bare)
    return bare[designated.end() :] if designated else bare


def _character_numbered(digits: str) -> str:
    number = int(digits)
    return chr(number) if len(digits) <= _MOST_DIGITS and number <= _LAST_NUMBER else _NO_CHARACTER


# CR LF ends at its LF, and the CR before it is a blank: so `lf` takes CR LF as well.
_END_BYTES = {
    Terminator.CR: b"\r",
    Terminator.LF: b"\n",
    Terminator.CRLF: b"\n",
    Terminator.TAB: b"\t",
    Terminator.ETX: b"\x03",
}
_IDLE_BYTES = _IDLE.encode()

# linux/input.h: the value of a key event; 2 is the kernel's autorepeat.
_LET_GO = 0
_PRESSED = 1

# linux/input-event-codes.h, from here on.
KEY_TAB = 15
KEY_ENTER = 28
KEY_LEFTCTRL = 29
KEY_LEFTSHIFT = 42
KEY_RIGHTSHIFT = 54
KEY_LEFTALT = 56
KEY_CAPSLOCK = 58
KEY_NUMLOCK = 69
KEY_SCROLLLOCK = 70
KEY_KPENTER = 96
KEY_RIGHTCTRL = 97
KEY_RIGHTALT = 100
KEY_LEFTMETA = 125
KEY_RIGHTMETA = 126

_SHIFTS = frozenset({KEY_LEFTSHIFT, KEY_RIGHTSHIFT})
_ALTS = frozenset({KEY_LEFTALT, KEY_RIGHTALT})
_CHORDING = _ALTS | {KEY_LEFTCTRL, KEY_RIGHTCTRL, KEY_LEFTMETA, KEY_RIGHTMETA}
_MODIFIERS = _SHIFTS | _CHORDING
_LOCKS = frozenset({KEY_NUMLOCK, KEY_SCROLLLOCK})  # pressed by scanners round keypad codes; no effect here

_MOST_DIGITS = 4  # of a decimal code: three, or four with a leading 0
_LAST_NUMBER = 0xFF
_NO_CHARACTER = "\x7f"  # stands for a key that types nothing; not printable, so it spoils the frame


def _row(first: int, plain: str, shifted: str) -> dict[int, tuple[str, str]]:
    return {first + i: both for i, both in enumerate(zip(plain, shifted, strict=True))}


def _keypad(first: int, characters: str) -> dict[int, tuple[str, str]]:
    return _row(first, characters, characters)


US_KEYS: dict[int, tuple[str, str]] = {
    **_row(2, "1234567890-=", "!@#$%^&*()_+"),
    **_row(16, "qwertyuiop[]", "QWERTYUIOP{}"),
    **_row(30, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    **_row(43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    **_row(57, " ", " "),
    **_keypad(55, "*"),
    **_keypad(71, "789-456+1230."),
    **_keypad(98, "/"),
    **_keypad(KEY_TAB, "\t"),
    **_keypad(KEY_ENTER, "\r"),
    **_keypad(KEY_KPENTER, "\r"),
}
"""Key code to what it types, plain and with Shift."""

_KEYPAD_DIGITS = {code: US_KEYS[code][0] for code in (71, 72, 73, 75, 76, 77, 79, 80, 81, 82)}
