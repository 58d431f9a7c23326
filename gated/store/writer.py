"""The database thread: one at a time, scans before everything else.

What is handed in runs to its end even when nobody waits for it any more, so each piece is one transaction.
Long work is handed in as many short pieces: between two of them a scan goes first.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from gated.errors import StoreError

T = TypeVar("T")
_Piece = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Writer:
    """Runs callables on its own thread; ``urgent`` ones first, each kind in the order handed in."""

    def __init__(self) -> None:
        self._urgent: deque[_Piece] = deque()
        self._others: deque[_Piece] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # one True for each piece, False to end
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def start(self) -> None:
        """Starts the thread; results arrive on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs. A piece that hangs on a slow disk is alive."""
        return self._thread.is_alive()

    def do(self, work: Callable[[], T], *, urgent: bool = False) -> "asyncio.Future[T]":
        """Hands in one piece; the future gets its result, or StoreError where a database did not answer.

        Raises StoreError once the thread is to end.
        """
        assert self._loop is not None, "start first"
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        (self._urgent if urgent else self._others).append((work, future))
        self._tokens.put(True)
        return future

    async def close(self) -> None:
        """Ends the thread once all that was handed in is done."""
        self._closed = True
        self._tokens.put(False)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _work(self) -> None:
        while self._tokens.get():
            work, future = (self._urgent or self._others).popleft()
            try:
                result = work()
            except sqlite3.Error as error:
                self._deliver(future, None, StoreError(f"database: {error}"))
            except BaseException as error:  # noqa: BLE001 - supervisor: it belongs to whoever waits
                self._deliver(future, None, error)
            else:
                self._deliver(future, result, None)

    def _deliver(self, future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
            self._loop.call_soon_threadsafe(settle)
