"""The emergency on disk: a restart finds the latch as it was, and the journal has what came of it.

Where the disk refuses, it is told as an alarm, and written as soon as the disk takes it.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from gated.clock import Clock
from gated.contacts import EmergencyInput
from gated.core.emergency import Came
from gated.core.scan import Moment
from gated.errors import StoreError
from gated.store import Store

_NOTE = "emergency"
_UNWRITTEN = "If gated is started again before the disk takes it, it starts as if this had not happened."
# An input that flutters while the disk fails: of what it did, the last is kept.
_MOST = 100
_FINISH_S = 1.0  # at a stop


async def was_latched(store: Store) -> bool:
    """Whether gated was ended in a latched emergency. Raises StoreError."""
    return bool(await store.note(_NOTE))


class LatchKeeper:
    """Writes down an emergency's latch and what came of it."""

    def __init__(
        self, emergency: EmergencyInput, store: Store, clock: Clock, alarm_if: Callable[..., None]
    ) -> None:
        """``alarm_if`` is the link's."""
        self._emergency = emergency
        self._store = store
        self._clock = clock
        self._alarm_if = alarm_if
        self._latch_waits = False  # it is not on disk yet as it is
        self._waiting: deque[tuple[Came, Moment]] = deque(maxlen=_MOST)
        self._writing: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether something is not on disk yet."""
        return self._latch_waits or bool(self._waiting)

    def came(self, came: Came) -> None:
        """Has a change of the emergency written."""
        self._latch_waits = self._latch_waits or came in (Came.LATCHED, Came.ENDED)
        self._waiting.append((came, self._clock.now()))
        self.write()

    def write(self) -> None:
        """Begins to write what waits, unless that is under way."""
        if self.waits and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write())

    async def finish(self) -> None:
        """Before the store is closed: lets what waits be written, while the disk takes it."""
        self.write()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_FINISH_S)

    async def _write(self) -> None:
        try:
            while self.waits:
                await (self._write_latch() if self._latch_waits else self._write_occurrence())
        except StoreError as error:
            self._alarm_if(True, "emergency_unwritten", error=str(error), hint=_UNWRITTEN)
        else:
            self._alarm_if(False, "emergency_unwritten")

    async def _write_latch(self) -> None:
        latched = self._emergency.state.latched
        await self._store.set_note(_NOTE, int(latched))
        self._latch_waits = self._emergency.state.latched != latched

    async def _write_occurrence(self) -> None:
        came, at = first = self._waiting[0]
        await self._store.occurred("emergency", None, came, "", at)
        if self._waiting and self._waiting[0] is first:  # else so much came that it was pushed out
            self._waiting.popleft()
