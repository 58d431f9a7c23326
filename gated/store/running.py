"""The gate's running time: milliseconds that a gated of this state directory has run, over all its starts.

It never steps and never runs backwards, whatever the wall clock does and however often the power goes, so it
can say that ten minutes have passed. Time without power does not count: what waits, waits longer. It goes on
from the latest running time that either database speaks of; were it to start below that of a mirrored row,
the row would pass for newer than an upload that it knows nothing of.
"""


class RunningTime:
    """Maps this boot's monotonic seconds to running milliseconds."""

    def __init__(self, so_far_ms: int, monotonic: float) -> None:
        self._offset_ms = so_far_ms - monotonic * 1000

    def at(self, monotonic: float) -> int:
        """Running milliseconds at a monotonic time of this process's boot."""
        return int(self._offset_ms + monotonic * 1000)

    def skip(self, milliseconds: int) -> None:
        """Goes on from later: a disk that could not be read at the start speaks of that."""
        self._offset_ms += milliseconds
