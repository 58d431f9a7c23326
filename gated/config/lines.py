"""On which line of a TOML text each key and table stands: the standard reader does not tell.

Only for texts that :mod:`tomllib` has already accepted, so nothing is checked here. A key that can't be
told (one written with escapes) is given the line of the table round it.

Grammar: TOML 1.0, https://toml.io/en/v1.0.0.
"""

import json
import re
from dataclasses import dataclass, field

Place = tuple[str | int, ...]
"""The way to a value: ``("lanes", 0, "release", "pin")``."""

_TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}'''  # text over several lines; up to two quotes may end it
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""  # text on one line
    r"""|\#[^\n]*|\n|[\[\]{},=]|[^\s\[\]{},=."'\#]+""",  # comment, end of line, signs, bare words
    re.DOTALL,
)


def show(place: Place) -> str:
    """``lanes[0].release.pin``; a name that is more than a word in quotes, as the file has to write it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_word(part)}" for part in place).lstrip(".")


def _word(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    return json.dumps(name, ensure_ascii=not name.isprintable())


class Lines:
    """The line of each place in ``text``, which is valid TOML."""

    def __init__(self, text: str) -> None:
        self._first = _Scanner().scan(text)

    def of(self, place: Place) -> int | None:
        """The line of ``place``, else of the nearest table round it, else None. The first line is 1."""
        tables = (place[:length] for length in range(len(place), 0, -1))
        return next((self._first[table] for table in tables if table in self._first), None)


@dataclass(slots=True)
class _Open:
    """A table or an array that has begun. ``count`` is the index of an array's present element."""

    place: Place
    is_array: bool = False
    count: int = 0


@dataclass(slots=True)
class _Scanner:
    """One pass over the tokens. ``value`` is the place being given a value, None before a key's ``=``."""

    line: int = 1
    first: dict[Place, int] = field(default_factory=dict)
    arrays: dict[Place, int] = field(default_factory=dict)  # [[name]]: how many there are so far
    open: list[_Open] = field(default_factory=lambda: [_Open(())])  # the outermost is the header's table
    words: list[str] = field(default_factory=list)
    value: Place | None = None
    header: int = 0  # how many [ of a header stand open

    def scan(self, text: str) -> dict[Place, int]:
        for match in _TOKEN.finditer(text):
            self._take(match.group())
            self.line += match.group().count("\n")
        return self.first

    def _take(self, piece: str) -> None:
        if piece == "\n":
            self._end_of_line()
        elif piece in "[]{},=":
            self._sign(piece)
        elif self.value is None and not piece.startswith("#"):
            self.words.append(piece.strip("\"'"))

    def _end_of_line(self) -> None:
        if len(self.open) == 1:
            self.value, self.words, self.header = None, [], 0

    def _sign(self, sign: str) -> None:
        if sign == "=":
            self.value = self._mark(self.open[-1].place, self.words)
            self.words = []
        elif self.value is None and len(self.open) == 1:
            self._header(sign)
        elif sign in "[{":
            self._begin(is_array=sign == "[")
        elif sign == ",":
            self._next()
        else:
            self.value = self.open.pop().place

    def _header(self, sign: str) -> None:
        if sign == "[":
            self.header += 1
        elif self.words:
            self.open = [_Open(self._table(self.words, is_array=self.header == 2))]
            self.words = []

    def _table(self, words: list[str], *, is_array: bool) -> Place:
        place: Place = ()
        for word in words[:-1]:
            place = self._latest((*place, word))
        place = (*place, words[-1])
        if is_array:
            self.arrays[place] = self.arrays.get(place, -1) + 1
            self.first.setdefault(place, self.line)
        place = self._latest(place)
        self.first.setdefault(place, self.line)
        return place

    def _latest(self, place: Place) -> Place:
        return (*place, self.arrays[place]) if place in self.arrays else place

    def _begin(self, *, is_array: bool) -> None:
        place = self.value or ()
        self.first.setdefault(place, self.line)
        self.open.append(_Open(place, is_array))
        self.value = (*place, 0) if is_array else None

    def _next(self) -> None:
        around = self.open[-1]
        around.count += 1
        self.value = (*around.place, around.count) if around.is_array else None

    def _mark(self, place: Place, words: list[str]) -> Place:
        for word in words:
            place = (*place, word)
            self.first.setdefault(place, self.line)
        return place
