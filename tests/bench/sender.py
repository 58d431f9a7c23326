"""The scanner's end of a pseudo-terminal, and the pipe on which the other end tells when it was done."""

import os
import pty
import select
import struct
import time
import tty
from pathlib import Path

# Nanoseconds of the monotonic clock, which all processes of a machine share (clock_gettime(2)).
STAMP = struct.Struct("q")
_LONGEST_S = 10.0  # an answer that takes longer is none


class Sender:
    """Sends barcodes and takes the time until something is done about them."""

    def __init__(self, link: Path) -> None:
        self._line, self._device = pty.openpty()
        tty.setraw(self._device)
        self.link = link
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._device))
        self._stamps, self.report = os.pipe()
        os.set_inheritable(self.report, True)

    def close(self) -> None:
        """Takes the line away."""
        for fd in (self._line, self._device, self._stamps, self.report):
            os.close(fd)
        self.link.unlink()

    def send(self, barcode: str) -> float:
        """Milliseconds from just before the barcode and its terminator are written until the pin has moved.

        Returns when the other side is ready for the next one.
        """
        frame = barcode.encode() + b"\r"
        begun = time.perf_counter_ns()
        os.write(self._line, frame)
        moved = self._stamp()
        self._stamp()
        return (moved - begun) / 1e6

    def _stamp(self) -> int:
        if not select.select([self._stamps], [], [], _LONGEST_S)[0]:
            raise TimeoutError("nothing was done about a scan")
        stamp: int = STAMP.unpack(os.read(self._stamps, STAMP.size))[0]
        return stamp
