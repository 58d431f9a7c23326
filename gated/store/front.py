"""Where scans are handed in: each is answered within about two seconds, whatever the disk does.

A scan that the first desk has not answered in time is answered beside it, by a second desk on a thread of its
own, from what can be read and what is in memory; the lane then follows ``[disk] on_failure``. While the disk
holds the first desk up, scans go to the second at once. Where even reading hangs, the answer is an error.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from gated.core.scan import Scan
from gated.deadline import Deadline
from gated.errors import StoreError
from gated.store.desk import Ask, Decided, Desk
from gated.store.writer import Piece, Writer

T = TypeVar("T")

# How long a scan waits for the disk: a commit over 1 s is a state of the lane. Then for the second desk.
PATIENCE_S = 1.0
GIVE_UP_S = 1.0


class Front:
    """Hands scans to the first desk, and to the second where the first is held up."""

    def __init__(self, writer: Writer, first: Desk, second: Desk) -> None:
        self._writer = writer
        self._first = first
        self._second = second
        self._beside = Writer("store beside")
        self._waiting: dict[Piece[Any], tuple[float, Callable[[], None]]] = {}
        """When, by the loop's time, a piece has waited too long, and what is done then."""
        self._deadline = Deadline(self._passed)
        self._quiet = asyncio.Event()  # set when the last scan that is at a desk has ended

    def start(self) -> None:
        """Starts the second desk's thread."""
        self._beside.start()

    async def close(self, *, within_s: float) -> bool:
        """Ends the second desk's thread; False if that takes longer."""
        return await self._beside.close(within_s=within_s)

    @property
    def alive(self) -> bool:
        """Whether the second desk's thread runs."""
        return self._beside.alive

    @property
    def hangs(self) -> bool:
        """Whether the disk holds the first desk up."""
        return self._writer.busy_s > PATIENCE_S

    @property
    def holds_others_up(self) -> bool:
        """Whether the disk holds up what is no scan."""
        return self._writer.held_up_s > PATIENCE_S

    @property
    def is_quiet(self) -> bool:
        """Whether no scan is at a desk."""
        return not self._waiting

    async def quiet(self) -> None:
        """Waits until no scan is at a desk."""
        if self._waiting:
            self._quiet.clear()
            await self._quiet.wait()

    def do(self, scan: Scan, step: Callable[[Desk], T]) -> Piece[T]:
        """Hands in a step of a scan. Its error is StoreError where neither desk can answer."""
        if self.hangs:
            piece = self._beside.do(partial(step, self._second))
            self._wait(piece, GIVE_UP_S, partial(self._give_up, piece))
        else:
            piece = self._writer.do(partial(step, self._first), urgent=True)
            self._wait(piece, PATIENCE_S, partial(self._overdue, piece, scan, step))
        piece.late = self._take_back
        piece.ended = partial(self._ended, piece)
        return piece

    def _wait(self, piece: Piece[Any], seconds: float, then: Callable[[], None]) -> None:
        if not self._waiting:  # as it usually is: nothing to compare with
            self._waiting[piece] = (self._deadline.set(seconds), then)
        else:
            self._waiting[piece] = (asyncio.get_running_loop().time() + seconds, then)
            self._watch()

    def _watch(self) -> None:
        """Has the first of those that wait looked at when its time is over."""
        if self._waiting:
            first = min(due for due, _ in self._waiting.values())
            self._deadline.set(first - asyncio.get_running_loop().time())

    def _passed(self) -> None:
        now = asyncio.get_running_loop().time()
        overdue = next((piece for piece, (due, _) in self._waiting.items() if due <= now), None)
        then = self._waiting.pop(overdue)[1] if overdue else None
        self._watch()  # at once, where others are overdue as well
        if then:
            then()

    def _ended(self, piece: Piece[Any]) -> None:
        self._waiting.pop(piece, None)
        if not self._waiting:
            self._quiet.set()

    def _overdue(self, piece: Piece[T], scan: Scan, step: Callable[[Desk], T]) -> None:
        """The second desk takes a step that the first has not begun; or the decision that it can't write."""
        if piece.take():
            self._beside.do(partial(step, self._second)).then(piece.settle)
        else:
            self._beside.do(partial(self._second.overtake, scan.id)).then(partial(self._overtaken, piece))
        self._wait(piece, GIVE_UP_S, partial(self._give_up, piece))

    def _overtaken(self, piece: Piece[Any], decided: Decided | BaseException | None) -> None:
        if decided is not None:  # else the first desk is still looking up, or just done
            piece.settle(decided)

    def _give_up(self, piece: Piece[Any]) -> None:
        piece.settle(StoreError("the disk does not answer", hint="Look at the gate's card or disk."))

    def _take_back(self, told: object, outcome: object) -> None:
        """What comes after we gave up must not count: nobody was let in."""
        if not isinstance(told, StoreError):
            return
        if isinstance(outcome, Ask):
            self._beside.do(partial(self._second.let_go, outcome))
        elif isinstance(outcome, Decided) and outcome.verdict.admitted:
            self._beside.do(partial(self._second.disown, outcome))
