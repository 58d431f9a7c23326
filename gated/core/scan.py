"""A scan: one barcode read at one lane at one moment, and what a moment is.

Durations are taken from ``Moment.monotonic`` only. Wall time carries the trust it had when it was read.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

ScanId = NewType("ScanId", UUID)
LaneName = NewType("LaneName", str)


class Direction(StrEnum):
    """Which way a lane lets people pass."""

    ENTRY = "entry"
    EXIT = "exit"


class TimeTrust(StrEnum):
    """How far wall time can be believed."""

    SYNCHRONISED = "synchronised"  # the kernel says a time server steers it
    ESTIMATED = "estimated"  # a real-time clock, or an offset learnt from the API in this boot
    UNKNOWN = "unknown"  # at best a lower bound


@dataclass(frozen=True, slots=True)
class Moment:
    """One reading of the clock: aware UTC wall time, its trust, and seconds since boot."""

    wall: datetime
    trust: TimeTrust
    monotonic: float
    boot: str


@dataclass(frozen=True, slots=True)
class Scan:
    """One barcode read at one lane at one moment. ``barcode`` has passed :mod:`gated.core.barcode`."""

    id: ScanId
    barcode: str
    lane: LaneName
    direction: Direction
    at: Moment


def uuid7(wall: datetime, randomness: int) -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7) of a time and 80 random bits, of which it has room for 74."""
    milliseconds = max(0, int(wall.timestamp() * 1000)) & 0xFFFF_FFFF_FFFF
    first, rest = randomness >> 68 & 0xFFF, randomness & (1 << 62) - 1
    return UUID(int=milliseconds << 80 | 0x7 << 76 | first << 64 | 0b10 << 62 | rest)
