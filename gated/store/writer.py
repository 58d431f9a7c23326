"""A database thread: one piece of work at a time, scans before everything else.

What is handed in runs to its end even when nobody waits for it any more, so each piece is one transaction.
Long work is handed in as many short pieces: between two of them a scan goes first. A piece that has not begun
can be taken back, by whoever can't wait for it.
"""

import asyncio
import contextlib
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


class Piece(Generic[T]):
    """Work that was handed in. ``await`` it, or be told by :meth:`then` without another turn of the loop."""

    __slots__ = ("_outcome", "_taken", "_then", "ended", "late", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
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
        """``mend`` is asked on the thread when a piece has failed: if it says so, that runs once more."""
        self._urgent: deque[Piece[Any]] = deque()
        self._others: deque[Piece[Any]] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # one True for each piece, False to end
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._mend = mend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began: float | None = None  # when the piece that runs began, monotonic
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
        """For how many seconds the piece that runs has been running."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def do(self, work: Callable[[], T], *, urgent: bool = False) -> Piece[T]:
        """Hands in one piece. Its error is StoreError where a database did not answer.

        Raises StoreError once the thread is to end.
        """
        assert self._loop is not None, "start first"
        if self._closed:
            raise StoreError("the store is closed")
        piece = Piece(work)
        (self._urgent if urgent else self._others).append(piece)
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
        while self._tokens.get():
            piece = (self._urgent or self._others).popleft()
            if piece.take():
                self._began = time.monotonic()
                outcome = self._outcome(piece)
                self._began = None
                self._deliver(partial(piece.settle, outcome))
        self._deliver(self._ended.set)

    def _outcome(self, piece: Piece[T]) -> T | BaseException:
        try:
            return piece.work()
        except BaseException as error:  # noqa: BLE001 - supervisor: it belongs to whoever waits
            try:
                return piece.work() if self._mend(error) else _told(error)
            except BaseException as again:  # noqa: BLE001 - likewise
                return _told(again)

    def _deliver(self, news: Callable[[], None]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
            self._loop.call_soon_threadsafe(news)


def _told(error: BaseException) -> BaseException:
    return StoreError(f"database: {error}") if isinstance(error, sqlite3.Error) else error


def _settle(future: "asyncio.Future[T]", outcome: T | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
