"""The clock, and how far it can be trusted.

Durations come from the monotonic clock alone. Wall time is believed while the kernel says that a time server
steers it (adjtimex(2): not TIME_ERROR, STA_UNSYNC clear); else it is estimated by its offset to monotonic
time, as learnt in this boot from the API's ``Date`` or while the kernel was synchronised; or by a real-time
clock that set the system time and agrees with it (/sys/class/rtc/*/hctosys and since_epoch: one without a
battery starts in 1970, and the system's own lower bound then outranks it); else it is unknown.

Whoever sets the clock by hand takes the kernel's word for it away at that moment (clock_settime: ntp_clear in
the kernel's timekeeping.c). So a wall time that has moved against the monotonic one is asked about at once.
"""

import ctypes
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from gated.core.scan import Moment, ScanId, TimeTrust, uuid7

_STA_UNSYNC = 0x0040  # linux/timex.h
_TIME_ERROR = 5  # linux/timex.h
_TIMEX_BYTES = 512  # struct timex is 208 bytes where it is largest
_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)  # modes (padded), offset, freq, maxerror, esterror
# A learnt offset below this is the network's delay, not the clock's error.
_NEGLIGIBLE_S = 2.0
# A real-time clock has whole seconds and was read some time ago, but it drifts by seconds a day.
_RTC_AGREES = timedelta(minutes=1)
# The kernel is asked again this often, not at each scan.
_TRUST_AGE = 5.0


class Clock(Protocol):
    """What gated needs of a clock."""

    def now(self) -> Moment:
        """This moment."""
        ...

    def learn(self, server: datetime, monotonic: float) -> None:
        """The API said it was ``server`` at that monotonic time."""
        ...


class SystemClock:
    """This machine's clock."""

    def __init__(
        self, *, root: Path = Path("/"), kernel_synchronised: Callable[[], bool] | None = None
    ) -> None:
        self._root = root
        self._boot = _boot_id(root)
        self._kernel_synchronised = kernel_synchronised or _kernel_synchronised
        self._offset: float | None = None  # of the true wall time to the monotonic one, as learnt: seconds
        self._trust = TimeTrust.UNKNOWN
        self._asked = float("-inf")
        self._since = _since(datetime.now(UTC), time.monotonic())
        self._rtc = _set_by_rtc(root, datetime.now(UTC))

    def now(self) -> Moment:
        """This moment: the system's wall time, or the API's where only that is known."""
        monotonic, wall = time.monotonic(), datetime.now(UTC)
        since = _since(wall, monotonic)
        if stepped := abs(since - self._since) > _NEGLIGIBLE_S:
            self._rtc = _set_by_rtc(self._root, wall)
        if stepped or monotonic - self._asked > _TRUST_AGE:
            self._asked, self._since = monotonic, since
            self._trust = self._find_trust()
            if self._trust is TimeTrust.SYNCHRONISED:
                self._offset = since
        learnt = None if self._trust is TimeTrust.SYNCHRONISED else self._offset
        if learnt is not None and abs(learnt - since) > _NEGLIGIBLE_S:
            wall = datetime.fromtimestamp(monotonic + learnt, UTC)
        return Moment(wall, self._trust, monotonic, self._boot)

    def learn(self, server: datetime, monotonic: float) -> None:
        """Takes the API's time as an estimate of the time in this boot."""
        self._offset = _since(server, monotonic)
        self._asked = float("-inf")

    def _find_trust(self) -> TimeTrust:
        if self._kernel_synchronised():
            return TimeTrust.SYNCHRONISED
        return TimeTrust.ESTIMATED if self._offset is not None or self._rtc else TimeTrust.UNKNOWN


def _since(wall: datetime, monotonic: float) -> float:
    """How far wall time is ahead of monotonic seconds, taken for seconds since the epoch."""
    return wall.timestamp() - monotonic


def new_scan_id(at: Moment) -> ScanId:
    """A fresh id for a scan read at ``at``."""
    # It has to be unlike others, and no more: nobody gains by guessing it.
    return ScanId(uuid7(at.wall, random.getrandbits(80)))


def _kernel_synchronised() -> bool:
    """Whether a time server steers the kernel's clock; False where the kernel may not be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only read
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state in (-1, _TIME_ERROR):
        return False
    return not ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value & _STA_UNSYNC


def _boot_id(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"without-id-{os.urandom(8).hex()}"


def _set_by_rtc(root: Path, wall: datetime) -> bool:
    """Whether a real-time clock that works set the system time at boot (sysfs ABI, class/rtc)."""
    for rtc in (root / "sys/class/rtc").glob("*"):
        try:
            set_time = (rtc / "hctosys").read_text().strip() == "1"
            shows = datetime.fromtimestamp(int((rtc / "since_epoch").read_text()), UTC)
        except (OSError, ValueError, OverflowError):
            continue
        if set_time and abs(shows - wall) < _RTC_AGREES:
            return True
    return False
