"""``gated run`` with somebody who watches the release: ``python -m tests.bench.observed FD --config FILE``.

All is gated's own but the mock pin, which writes to the pipe ``FD`` at what nanosecond of the monotonic clock
it moved, once it has. Then the guest goes through: the passage's contact closes until the barrier relocks. So
the lane is ready for the next guest after 60 ms, not after its grant, and a second stamp says so.
"""

import asyncio
import os
import sys
import time
from typing import Any

from gpiozero.pins.mock import MockPin

from gated.__main__ import main
from gated.pins import devices
from tests.bench.sender import STAMP

RELEASE, DONE = 17, 5  # pins of the lane, as in the configuration that tests.bench.gates writes
SETTLED_S = 0.035  # gated takes a contact for settled after 20 ms

_report = int(sys.argv.pop(1))


class ObservedPin(MockPin):
    """A mock pin that tells when it moved."""

    def _change_state(self, value: Any) -> Any:
        changed = super()._change_state(value)
        if changed and self.info.name == f"GPIO{RELEASE}":
            if value:
                _tell()
            self._go_through(begins=value)
        return changed

    def _go_through(self, *, begins: bool) -> None:
        loop, contact = asyncio.get_running_loop(), self.factory.pin(DONE)
        if begins:
            loop.call_later(0.001, contact.drive_low)
        else:
            contact.drive_high()
            loop.call_later(SETTLED_S, _tell)


def _tell() -> None:
    os.write(_report, STAMP.pack(time.perf_counter_ns()))


if __name__ == "__main__":
    devices.MockPin = ObservedPin
    sys.argv.insert(1, "run")
    main()
