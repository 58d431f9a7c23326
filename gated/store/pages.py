"""A SQLite file read page by page, for where SQLite can't find its way through it any more.

Every page that makes sense is read for itself, whatever became of the pages that led to it: one page of noise
costs the rows on that page, or none. Nothing is written here, and no lock is taken, so nobody may write the
file meanwhile; and closing it lets go of the locks that this process has on it. Facts:
https://sqlite.org/fileformat2.html (b-tree pages 1.6, records 2.1, the WAL 4). Files are as gated makes them:
pages of 4096 bytes without reserved space, text in UTF-8.
"""

import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

PAGE_BYTES = 4096  # SQLite's default, which gated never changes
_WAL_HEADER, _FRAME_HEADER = 32, 24
_FRAME = _FRAME_HEADER + PAGE_BYTES
_WAL_MAGIC = 0x377F0682  # its lowest bit says that checksums are of big-endian words
_WAL_VERSION = 3007000
# Kinds of b-tree page, and how long their headers are.
_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
_HEADER = {_INTERIOR_INDEX: 12, _INTERIOR_TABLE: 12, _LEAF_INDEX: 8, _LEAF_TABLE: 8}
# The most of a payload that its page holds itself, and the least where the rest is on pages of its own.
_MOST_TABLE, _MOST_INDEX, _LEAST = PAGE_BYTES - 35, (PAGE_BYTES - 12) * 64 // 255 - 23, 489
_LONGEST = 1 << 20  # bytes of a record; ours are far shorter, and noise may say anything
_CHAINED = PAGE_BYTES - 4  # payload of an overflow page, after the number of the next
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # by serial type; 7 is a float, 8 and 9 are 0 and 1
_BLOB = 12  # the first serial type of a blob; odd ones from there are texts

Value = int | float | str | bytes | None


class Nonsense(Exception):
    """Bytes that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Wal:
    """What a WAL holds: the latest committed version of each page, by its number.

    ``damaged``: it lacks something that was committed. The torn end that a power cut leaves is no damage.
    ``size`` is the file's size in pages as of the last commit; None if there is none.
    """

    pages: Mapping[int, bytes]
    damaged: bool
    size: int | None


def read_wal(path: Path) -> Wal:
    """Reads a WAL, beyond a damaged place too. No file is an empty one. Raises OSError."""
    data = path.read_bytes() if path.exists() else b""
    if not data.strip(b"\0"):
        return Wal({}, damaged=False, size=None)
    big = data[3] & 1 == 1
    sound = _is_wal_header(data[:_WAL_HEADER], big=big)
    if not sound:
        big = sys.byteorder == "big"
    salt = data[16:24] if sound else None
    before = data[24:32]
    pages: dict[int, bytes] = {}
    waiting: dict[int, bytes] = {}
    damaged, skipped, size = not sound, False, None
    for at in range(_WAL_HEADER, len(data) - _FRAME + 1, _FRAME):
        head, page = data[at : at + _FRAME_HEADER], data[at + _FRAME_HEADER : at + _FRAME]
        follows = salt in (None, head[8:16]) and _checksum(before, head[:8] + page, big=big) == head[16:24]
        before = head[16:24]
        if not follows:
            skipped = True
            continue
        salt = head[8:16]
        number, committed = struct.unpack(">II", head[:8])
        waiting[number] = page
        if committed:
            damaged, size = damaged or skipped, committed
            pages |= waiting
            waiting.clear()
    return Wal(pages, damaged, size)


def _is_wal_header(header: bytes, *, big: bool) -> bool:
    if len(header) < _WAL_HEADER:
        return False
    magic, version, page_bytes = struct.unpack(">III", header[:12])
    if (magic & ~1, version, page_bytes) != (_WAL_MAGIC, _WAL_VERSION, PAGE_BYTES):
        return False
    return _checksum(bytes(8), header[:24], big=big) == header[24:]


def _checksum(before: bytes, data: bytes, *, big: bool) -> bytes:
    """The WAL's running checksum, from the one before it."""
    words = array("I", data)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    first, second = struct.unpack(">II", before)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFF_FFFF
        second = (second + odd + first) & 0xFFFF_FFFF
    return struct.pack(">II", first, second)


class Pages:
    """The pages of a database file as its WAL completes them; a context manager that closes the file."""

    def __init__(self, path: Path, wal: Wal) -> None:
        """Opens ``path``; one that is not there has no pages but the WAL's. Raises OSError."""
        self._wal = wal
        self._file = os.open(path, os.O_RDONLY) if path.exists() else None
        self._count = 0 if self._file is None else -(-os.fstat(self._file).st_size // PAGE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def __iter__(self) -> Iterator[bytes]:
        """All pages, the WAL's last; the first, which holds the schema alone, is left out."""
        end = self._count if self._wal.size is None else min(self._count, self._wal.size)
        for number in range(2, end + 1):
            if number not in self._wal.pages:
                yield self._read(number)
        for number, page in self._wal.pages.items():
            if number > 1:
                yield page

    def page(self, number: int) -> bytes:
        """One page by its number, from 1; zeroes where it can't be read."""
        return self._wal.pages.get(number) or self._read(number)

    def _read(self, number: int) -> bytes:
        if self._file is None or not 0 < number <= self._count:
            return bytes(PAGE_BYTES)
        try:
            page = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES)
        except OSError:  # the card can't read it: the others may be readable
            return bytes(PAGE_BYTES)
        return page.ljust(PAGE_BYTES, b"\0")


def cells(page: bytes, fetch: Callable[[int], bytes]) -> Iterator[tuple[int | None, bytes]]:
    """The rowid (None in an index) and the record of each cell; an interior page of a table has none.

    ``fetch`` gets a page, by its number, that a record goes on in. Raises Nonsense, after the cells that were
    readable, where the page is damaged.
    """
    kind = page[0]
    if kind not in _HEADER:
        if page[:2] == b"\0\0":  # a page that a record goes on in, one of the freelist, or an empty one
            return
        raise Nonsense("no page of a b-tree")
    if kind == _INTERIOR_TABLE:
        return
    header, count = _HEADER[kind], int.from_bytes(page[3:5], "big")
    wrong = 0
    for at in range(header, header + 2 * min(count, PAGE_BYTES // 4), 2):
        start = int.from_bytes(page[at : at + 2], "big") + (4 if kind == _INTERIOR_INDEX else 0)
        try:
            yield _cell(page, start, fetch, is_table=kind == _LEAF_TABLE)
        except (Nonsense, IndexError):
            wrong += 1
    if wrong:
        raise Nonsense(f"cells: {wrong}")


def _cell(page: bytes, at: int, fetch: Callable[[int], bytes], *, is_table: bool) -> tuple[int | None, bytes]:
    length, at = _varint(page, at)
    if length > _LONGEST:
        raise Nonsense("a record that is too long")
    rowid = None
    if is_table:
        rowid, at = _varint(page, at)
    most = _MOST_TABLE if is_table else _MOST_INDEX
    if length <= most:
        payload = page[at : at + length]
    else:
        here = _LEAST + (length - _LEAST) % _CHAINED
        here = here if here <= most else _LEAST
        payload = page[at : at + here] + _chained(page[at + here : at + here + 4], length - here, fetch)
    if len(payload) != length:
        raise Nonsense("a record that is cut off")
    return rowid, payload


def _chained(link: bytes, length: int, fetch: Callable[[int], bytes]) -> bytes:
    """The rest of a record, from the pages that it goes on in."""
    found = bytearray()
    while len(found) < length:
        number = int.from_bytes(link, "big")
        page = fetch(number) if number else b""
        if not page:
            raise Nonsense("a record that is cut off")
        link = page[:4]
        found += page[4 : 4 + length - len(found)]
    return bytes(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of SQLite's variable length, and where it ends."""
    value = 0
    for index in range(at, at + 8):
        byte = data[index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, index + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


def split(record: bytes) -> tuple[bytes, bytes]:
    """A record's header, which says what its values are, and its body. Raises Nonsense."""
    try:
        length, _ = _varint(record, 0)
    except IndexError as error:
        raise Nonsense("no record") from error
    if not 0 < length <= len(record):
        raise Nonsense("no record")
    return record[:length], record[length:]


@lru_cache(maxsize=4096)
def serials(header: bytes) -> tuple[int, ...]:
    """The serial types of a record's values. Raises Nonsense."""
    found = []
    try:
        _, at = _varint(header, 0)
        while at < len(header):
            serial, at = _varint(header, at)
            found.append(serial)
    except IndexError as error:
        raise Nonsense("a header that is cut off") from error
    if at != len(header) or any(serial < 0 or serial in (10, 11) for serial in found):
        raise Nonsense("no header")
    return tuple(found)


def kinds_of(header: bytes) -> tuple[type, ...]:
    """What kinds of value a record has. Raises Nonsense."""
    return tuple(map(_kind, serials(header)))


def _kind(serial: int) -> type:
    if serial >= _BLOB:
        return str if serial % 2 else bytes
    return {0: type(None), 7: float}.get(serial, int)


def values(header: bytes, body: bytes) -> tuple[Value, ...]:
    """A record's values. Raises Nonsense where they do not fill it exactly."""
    found: list[Value] = []
    at = 0
    for serial in serials(header):
        end = at + (_INTEGER_BYTES[serial] if serial < _BLOB else (serial - _BLOB) // 2)
        found.append(_value(serial, body[at:end]))
        at = end
    if at != len(body):
        raise Nonsense("a record that is longer or shorter than its values")
    return tuple(found)


def _value(serial: int, raw: bytes) -> Value:
    if serial >= _BLOB:
        if serial % 2 == 0:
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Nonsense("no text") from error
    if serial in (0, 8, 9):
        return None if serial == 0 else serial - 8
    if serial == 7:
        return float(struct.unpack(">d", raw.rjust(8, b"\0"))[0])
    return int.from_bytes(raw, "big", signed=True)
