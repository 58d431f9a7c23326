"""Scanners: what reads barcodes for a lane. One protocol; serial, HID, and a fake for tests.

A scanner that can't be opened or goes away is *lost*, says why, and is looked for until it is closed: that is
its normal life, never an error. All callbacks come on the event loop that ``start`` was called from.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from gated.core.barcode import ByteFramer, Framing, KeyFramer, Read
from gated.deadline import Deadline


class ScannerState(StrEnum):
    """Whether barcodes can come from a scanner."""

    READING = "reading"
    LOST = "lost"


class Parity(StrEnum):
    """The parity bit of a serial line."""

    NONE = "none"
    EVEN = "even"
    ODD = "odd"
    MARK = "mark"
    SPACE = "space"


OnRead = Callable[[Read, float], None]
"""What was read, and the monotonic seconds at which its terminator was."""

OnState = Callable[[ScannerState, str], None]
"""The state and why, for the log: where the scanner was found, or what is the matter."""


class Scanner(Protocol):
    """One scanner of a lane. ``name`` is for the log."""

    name: str

    @property
    def partials(self) -> int:
        """Barcodes dropped unfinished since the scanner was opened: many mean a wrong terminator."""
        ...

    def start(self, on_read: OnRead, on_state: OnState) -> None:
        """Begin to look for the scanner and read it. Called once, from the running loop."""
        ...

    async def close(self) -> None:
        """Stop within half a second. No callback comes afterwards."""
        ...

    def alive(self) -> bool:
        """Whether it still reads or looks for the scanner. A lost scanner is alive."""
        ...


def await_silence(silence: Deadline, framer: ByteFramer | KeyFramer, framing: Framing) -> None:
    """After a read: has ``silence`` pass if nothing more comes in time, where that would drop something."""
    if framer.unfinished:
        silence.set(framing.character_timeout.total_seconds())
    else:
        silence.clear()


def changes_only(on_state: OnState) -> OnState:
    """``on_state``, told nothing twice in a row: a scanner is looked for far more often than that is news."""
    said: tuple[ScannerState, str] | None = None

    def tell(state: ScannerState, why: str) -> None:
        nonlocal said
        if (state, why) != said:
            said = (state, why)
            on_state(state, why)

    return tell
