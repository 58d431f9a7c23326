"""A database thread: one piece of work at a time, scans before everything else.

What is handed in runs to its end even when nobody waits for it any more, so each piece is one transaction.
Long work is handed in as many short pieces, or in one that makes way for scans in its midst: between two
pieces a scan goes first; where scans come without end, one piece goes after sixteen of them. A piece that has
not begun can be taken back, by whoever can't wait for it.

What can't be cut and only waits for the disk runs apart, on a thread of its own. Until it ends, urgent pieces
alone are run, so that no other touches what it works on.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from gated.errors import StoreError

T = TypeVar("T")

# A scanner gone mad must not keep the emergency's latch, the uploads and the health from the store.
_URGENT_IN_A_ROW = 16
# Seconds after which a piece that makes way had better end.
_LONG_S = 0.1


class Piece(Generic[T]):
    """Work that was handed in. ``await`` it, or be told by :meth:`then` without another turn of the loop."""

    __slots__ = ("_outcome", "_taken", "_then", "apart", "ended", "late", "work")

    def __init__(self, work: Callable[[], T], *, apart: bool = False) -> None:
        self.work = work
        self.apart = apart
        self.ended: Callable[[], None] | None = None
        """Called when the outcome is there, before it is told."""
        self.late: Callable[[T | BaseException, T | BaseException], None] | None = None
        """Called with the outcome that was told, and one that came after it."""
        self._taken = threading.Lock()
        self._then: Callable[[T | BaseException], None] | None = None
        self._outcome: tuple[T | BaseException] | None = None

    def take(self) -> bool:
        """Whether it is the caller's to run: the first who asks gets it."""
        return self._taken.acquire(blocking=False)

    def give_back(self) -> None:
        """Leaves what was taken to whoever asks next."""
        self._taken.release()

    def settle(self, outcome: T | BaseException) -> None:
        """Tells whoever waits, on the loop; the first outcome counts."""
        if self._outcome is not None:
            if self.late is not None:
                self.late(self._outcome[0], outcome)
            return
        self._outcome = (outcome,)
        if self.ended is not None:
            self.ended()
        if self._then is not None:
            self._then(outcome)

    def then(self, told: Callable[[T | BaseException], None]) -> None:
        """Calls ``told`` with the result, or with the error, as soon as it is there."""
        if self._outcome is None:
            self._then = told
        else:
            told(self._outcome[0])

    def __await__(self) -> Generator[Any, None, T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.then(partial(_settle, future))
        return future.__await__()


class Writer:
    """Runs callables on its own thread; ``urgent`` ones first, each kind in the order handed in."""

    def __init__(self, name: str, mend: Callable[[BaseException], bool] = lambda _: False) -> None:
        """``mend`` is asked on the thread when a piece has failed: if it says so, that runs once more.

        A piece that ran apart does not.
        """
        self._urgent: deque[Piece[Any]] = deque()
        self._others: deque[Piece[Any]] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # one True for each piece, False to end
        self._in_a_row = 0  # urgent pieces, since the last other one
        self._owed: list[bool] = []  # tokens that came while a piece ran apart
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._mend = mend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began: float | None = None  # when the piece that runs began, monotonic
        self._apart_since: float | None = None  # likewise, of the one that runs apart
        self._ended = asyncio.Event()
        self._closed = False

    def start(self) -> None:
        """Starts the thread; results arrive on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs. A piece that hangs on a slow disk is alive."""
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """For how many seconds the piece that runs has been running: the innermost, and of one that others
        ran within without their time. One apart does not count.
        """
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def held_up_s(self) -> float:
        """For how many seconds what is not urgent has had to wait for one piece, be that apart or not."""
        apart = self._apart_since
        return max(self.busy_s, 0.0 if apart is None else time.monotonic() - apart)

    def make_way(self, *, within: bool) -> bool:
        """For the piece that runs, between two parts of it: others go first. Says whether it had better end.

        Urgent ones that wait run ``within`` it, as many as may go in a row: so it must not be writing what
        they write, nor hold what they wait for, or what somebody waits for with the desks' memory locked. It
        had better end then, or where it has itself run for long, or where one of them has failed, which is to
        be run once more and mended on its own; and if they can't run within it, where one of them waits.

        The processor is offered to others as well (sched_yield(2)): statements without a pause keep it for
        some milliseconds, while a thread of the kernel that is to bring a scanner's bytes stands behind them.
        """
        os.sched_yield()
        while within and self._urgent and self._in_a_row < _URGENT_IN_A_ROW:
            if not self._run_within(self._urgent[0]):
                return True
        # One that ran for a second would be taken for a disk that hangs.
        return bool(self._urgent) or self.busy_s > _LONG_S

    def do(self, work: Callable[[], T], *, urgent: bool = False) -> Piece[T]:
        """Hands in one piece. Its error is StoreError where a database did not answer.

        Raises StoreError once the thread is to end.
        """
        return self._hand_in(Piece(work), self._urgent if urgent else self._others)

    def do_apart(self, work: Callable[[], T]) -> Piece[T]:
        """Hands in one piece that runs on a thread of its own. Raises as :meth:`do` does."""
        return self._hand_in(Piece(work, apart=True), self._others)

    def _hand_in(self, piece: Piece[T], to: deque[Piece[Any]]) -> Piece[T]:
        assert self._loop is not None, "start first"
        if self._closed:
            raise StoreError("the store is closed")
        to.append(piece)
        self._tokens.put(True)
        return piece

    async def close(self, *, within_s: float) -> bool:
        """Ends the thread once all that was handed in is done; False if that takes longer."""
        self._closed = True
        self._tokens.put(False)
        if self.alive:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), within_s)
        return self._ended.is_set() or not self.alive

    def _work(self) -> None:
        while True:
            token = self._tokens.get()
            if self._apart_since is not None and not (token and self._urgent):
                self._owed.append(token)
            elif token:
                self._run(self._next())
            elif self._urgent or self._others:  # whose tokens were owed, and stand behind this one
                self._tokens.put(False)
            else:
                break
        self._deliver(self._ended.set)

    def _next(self) -> Piece[Any]:
        others_turn = self._in_a_row >= _URGENT_IN_A_ROW and self._others and self._apart_since is None
        if self._urgent and not others_turn:
            self._in_a_row += 1
            return self._urgent.popleft()
        self._in_a_row = 0
        return self._others.popleft()

    def _run(self, piece: Piece[Any]) -> None:
        if not piece.take():
            return
        if piece.apart:
            self._apart_since = time.monotonic()
            threading.Thread(target=self._run_apart, args=(piece,), name="store apart", daemon=True).start()
            return
        self._began = time.monotonic()
        outcome = self._outcome(piece)
        self._began = None
        self._deliver(piece.settle, outcome)

    def _run_within(self, piece: Piece[Any]) -> bool:
        """Runs the first of the urgent ones within another piece; False if it failed and still waits."""
        if piece.take():
            outer, self._began = self._began, time.monotonic()
            try:
                outcome = piece.work()
            except BaseException:  # noqa: BLE001 - it is told, or mended, when it runs on its own
                piece.give_back()
                return False
            finally:
                assert outer is not None, "within a piece that runs"
                self._began = outer + time.monotonic() - self._began
            self._deliver(piece.settle, outcome)
        self._urgent.popleft()
        self._in_a_row += 1
        while not self._tokens.get():  # its own, or one as good; not the one that ends the thread
            self._tokens.put(False)
        return True

    def _run_apart(self, piece: Piece[Any]) -> None:
        try:
            outcome = piece.work()
        except BaseException as error:  # noqa: BLE001 - supervisor: it belongs to whoever waits
            outcome = error
        self._urgent.append(Piece(partial(self._rejoin, piece, outcome)))
        self._tokens.put(True)

    def _rejoin(self, piece: Piece[Any], outcome: object) -> None:
        """On the thread again, once that piece has ended: the others go on, in their order."""
        self._apart_since = None
        for token in self._owed:
            self._tokens.put(token)
        self._owed.clear()
        try:
            if isinstance(outcome, BaseException):
                self._mend(outcome)
        finally:
            told = _told(outcome) if isinstance(outcome, BaseException) else outcome
            self._deliver(piece.settle, told)

    def _outcome(self, piece: Piece[T]) -> T | BaseException:
        try:
            return piece.work()
        except BaseException as error:  # noqa: BLE001 - supervisor: it belongs to whoever waits
            try:
                return piece.work() if self._mend(error) else _told(error)
            except BaseException as again:  # noqa: BLE001 - likewise
                return _told(again)

    def _deliver(self, news: Callable[..., None], *told: object) -> None:
        """Has ``news`` called on the loop, with what is ``told``."""
        assert self._loop is not None
        try:  # noqa: SIM105 - contextlib.suppress takes longer, and a scan waits for this
            self._loop.call_soon_threadsafe(news, *told)
        except RuntimeError:  # the loop has ended: nobody is left to be told
            pass


def _told(error: BaseException) -> BaseException:
    return StoreError(f"database: {error}") if isinstance(error, sqlite3.Error) else error


def _settle(future: "asyncio.Future[T]", outcome: T | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
