"""The loop of a gate: asyncio's own, but for how names are looked up.

- A look-up is the system's (getaddrinfo(3)), which can't be broken off: with a resolver that does not answer
  it takes 5 s a try, for half a minute in all (resolv.conf(5)). It runs on a thread that nobody waits for.
- asyncio's own look-up uses the loop's executor: a stop waits for its threads, and the few of them are soon
  used up by names that are not found.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose end waits for no name."""

    async def getaddrinfo(self, host: Any, port: Any, **asked: int) -> Any:
        """The addresses of a name, as :func:`socket.getaddrinfo` gives them. Raises OSError, ValueError."""
        found: Future[Any] = Future()
        found.set_running_or_notify_cancel()  # from here on only the thread ends it
        look_up = partial(socket.getaddrinfo, host, port, **asked)
        threading.Thread(target=_run, args=(look_up, found), name="names", daemon=True).start()
        return await asyncio.wrap_future(found, loop=self)


def _run(look_up: Callable[[], Any], found: "Future[Any]") -> None:
    try:
        found.set_result(look_up())
    except (OSError, ValueError, OverflowError) as error:  # ValueError: no name; OverflowError: no port
        found.set_exception(error)
