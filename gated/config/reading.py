"""Reads a TOML document into records whose fields are the schema, and goes on after every mistake.

A mistake is a place and words that go on after its key path; nothing is raised. The good values stay known
by place even where their table can't become a record, so that the checks across tables see all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from gated.config.lines import Place
from gated.config.values import Choice, Range, Reader, Span, Wrong, flag, near

T = TypeVar("T")
Mistake = tuple[Place, str]

# Names under which people write secrets. None may be a key of ours, and none is ever shown with its value.
SECRETS = frozenset(
    {"password", "passwd", "passphrase", "pass", "pwd", "secret", "token", "bearer", "api_key"}
)


@dataclass(frozen=True, slots=True)
class Part:
    """A table that becomes ``record``; ``many`` is a list of at least one of them.

    ``name`` reads the names of tables that the file names, as in ``[signals.admit]``.
    """

    record: type[Any]
    many: bool = False
    name: Reader | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table: its name in the file, the record's field, how it is read, and its default."""

    name: str
    field: str
    read: Reader | Part
    default: object

    @property
    def required(self) -> bool:
        return self.default is MISSING


@dataclass(frozen=True, slots=True)
class Good:
    """A value that is right by itself, and whether the file gives it or it is the default."""

    value: Any
    read: Reader
    given: bool


@dataclass(slots=True)
class Reading:
    """What was found so far in a file of the ``schema``: good values by place, and mistakes."""

    schema: type[Any]
    good: dict[Place, Good] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    homes: dict[str, list[str]] = field(init=False)
    """Where each key belongs."""

    def __post_init__(self) -> None:
        self.homes = _homes(self.schema)

    def record(self, kind: type[T], table: object, place: Place = ()) -> T | None:
        """``table`` as a ``kind``, or None if there is a mistake in it."""
        if not isinstance(table, dict):
            self._wrong(place, f"must be a table: write {_heading(place, many=False)}")
            return None
        before = len(self.mistakes)
        self._not_keys(kind, table, place)
        read = {key.field: self._read(key, table, (*place, key.name)) for key in keys(kind).values()}
        return kind(**read) if len(self.mistakes) == before else None

    def _read(self, key: Key, table: dict[str, object], place: Place) -> object:
        if isinstance(key.read, Part):
            return self._part(key, key.read, table, place)
        given = key.name in table
        if not given and not key.required:
            self.good[place] = Good(key.default, key.read, given)
            return key.default
        try:
            value = key.read(table.get(key.name))
        except Wrong as wrong:
            self._wrong(place, f"{wrong}" if given else f"is missing: it {wrong}")
            return None
        self.good[place] = Good(value, key.read, given)
        return value

    def _part(self, key: Key, part: Part, table: dict[str, object], place: Place) -> object:
        if part.many:
            return self._parts(part, table.get(key.name, []), place)
        if part.name is not None:
            return self._named(part, part.name, table.get(key.name, {}), place)
        if key.name not in table and not key.required:
            return key.default
        return self.record(part.record, table.get(key.name, {}), place)

    def _parts(self, part: Part, tables: object, place: Place) -> object:
        heading = _heading(place, many=True)
        if not isinstance(tables, list):
            self._wrong(place, f"must be a list of tables: write {heading}, with two brackets")
            return None
        if not tables:
            self._wrong(place, f"is missing: at least one {heading} is needed")
        return tuple([self.record(part.record, table, (*place, i)) for i, table in enumerate(tables)])

    def _named(self, part: Part, read_name: Reader, tables: object, place: Place) -> object:
        if not isinstance(tables, dict):
            self._wrong(place, f"must be tables: write {_heading((*place, 'NAME'), many=False)}")
            return None
        read = {}
        for name, table in tables.items():
            try:
                called = read_name(name)
            except Wrong as wrong:
                self._wrong((*place, name), f"has a wrong name: it {wrong}")
            else:
                read[called] = self.record(part.record, table, (*place, name))
        return read

    def _not_keys(self, record: type[Any], table: dict[str, object], place: Place) -> None:
        known = keys(record)
        for name in table:
            if name not in known and name.lower() not in SECRETS:
                self._wrong((*place, name), "is not a key" + self._advice(name, known))

    def _advice(self, name: str, known: dict[str, Key]) -> str:
        if homes := self.homes.get(name):
            return f" of this table; it belongs under {' or '.join(homes)}"
        return near(name, known)

    def _wrong(self, place: Place, words: str) -> None:
        self.mistakes.append((place, words))


def keys(record: type[Any]) -> dict[str, Key]:
    """The keys of ``record``'s table by name."""
    hints = get_type_hints(record, include_extras=True)
    found = [_key(each, hints[each.name]) for each in fields(record)]
    return {key.name: key for key in found}


def tables(
    record: type[Any], place: tuple[str, ...] = (), *, many: bool = False
) -> Iterator[tuple[str, type[Any]]]:
    """Every table of the schema with its heading, as ``[lanes.release]``."""
    yield _heading(place, many=many), record
    for key in keys(record).values():
        if isinstance(key.read, Part):
            called = () if key.read.name is None else ("NAME",)
            yield from tables(key.read.record, (*place, key.name, *called), many=key.read.many)


def _homes(schema: type[Any]) -> dict[str, list[str]]:
    """The headings of the tables that have a key of each name."""
    homes: dict[str, list[str]] = {}
    for heading, record in tables(schema):
        for name, key in keys(record).items():
            if not isinstance(key.read, Part):
                homes.setdefault(name, []).append(heading)
    return homes


def _key(of: Field[Any], hint: Any) -> Key:
    read = _reader(hint)
    suffix = read.suffix if isinstance(read, Span | Range) else ""
    default = of.default if of.default_factory is MISSING else of.default_factory()
    return Key(of.name + suffix, of.name, read, default)


def _reader(hint: Any) -> Reader | Part:
    """How a field is read, by its annotation; the rules are in the schema's docstring."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not NoneType)
    if get_origin(hint) is tuple:
        return Part(get_args(hint)[0], many=True)
    if get_origin(hint) is Mapping:
        name, record = get_args(hint)
        read_name = _reader(name)
        assert not isinstance(read_name, Part)
        return Part(record, name=read_name)
    if isinstance(hint, type) and is_dataclass(hint):
        return Part(hint)
    if get_origin(hint) is Annotated:
        reader: Reader = hint.__metadata__[0]
        return reader
    return flag if hint is bool else Choice(hint)


def _heading(place: Place, *, many: bool) -> str:
    """As a table is headed in a file: ``[lanes.release]``, ``[[lanes]]``."""
    name = ".".join(part for part in place if isinstance(part, str))
    return f"[[{name}]]" if many else f"[{name}]"
