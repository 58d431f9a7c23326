"""A real gate whose surroundings are in a test's hands: ``python -m tests.driven CONFIG``, on mock pins.

Every guest goes through as soon as the barrier is released. Standard input commands the rest, a line each:

- ``step SECONDS``: the wall clock is set so far off, and no time server steers it any more, as when somebody
  sets it by hand
- ``sync``: a time server has put it right
- ``hang SECONDS``: a callback keeps the loop for so long
- ``dns SECONDS``: from now on a name takes so long to look up
"""

import asyncio
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar

import gated.app
import gated.clock
import gated.contacts
from gated import log
from gated.app import App
from gated.config import Config, load
from gated.core.scan import LaneName
from gated.names import Loop

# Contacts here do not bounce. A guest begins to go through so long after the release that the contact has
# come to rest after the guest before, and keeps it closed for longer than it takes to settle; on a busy
# machine that is not always so, and the guest pushes again.
_SETTLE = timedelta(milliseconds=2)
_BEGINS_S, _LASTS_S = 0.008, 0.006
# How often the gate looks at itself, so that a test need not wait long.
_LOOKS = timedelta(milliseconds=100)


class Wall(datetime):
    """What gated reads for the machine's wall time."""

    off: ClassVar[timedelta] = timedelta()
    synchronised: ClassVar[bool] = False

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + cls.off


class DrivenApp(App):
    """A gate whose guests do not linger."""

    def __init__(self, config: Config, password: str) -> None:
        super().__init__(config, password)
        self._done = {lane.name: lane.passage.done_pin for lane in config.lanes if lane.passage is not None}

    async def _start(self, stack: Any) -> None:
        await super()._start(stack)
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self._command)
        stack.callback(loop.remove_reader, sys.stdin.fileno())
        self._forget()

    def _happened(self, lane: LaneName, what: str, detail: Mapping[str, object]) -> None:
        super()._happened(lane, what, detail)
        if what == "barrier" and detail["released"] and lane in self._done:
            asyncio.get_running_loop().call_later(_BEGINS_S, self._pass, lane)

    def _pass(self, lane: LaneName) -> None:
        if self._lanes[lane].view()["released"]:
            contact, loop = self._pins.factory.pin(self._done[lane]), asyncio.get_running_loop()
            contact.drive_low()
            loop.call_later(_LASTS_S, contact.drive_high)
            loop.call_later(10 * _LASTS_S, self._pass, lane)

    def _forget(self) -> None:
        """gpiozero's mock pins remember all that was ever written to them."""
        for pin in self._pins.factory.pins.values():
            pin.clear_states()
        asyncio.get_running_loop().call_later(1.0, self._forget)

    def _command(self) -> None:
        word, *number = sys.stdin.readline().split() or [""]
        seconds = float(number[0]) if number else 0.0
        match word:
            case "step":
                Wall.off, Wall.synchronised = timedelta(seconds=seconds), False
            case "sync":
                Wall.off, Wall.synchronised = timedelta(), True
            case "hang":
                time.sleep(seconds)
            case "dns":
                socket.getaddrinfo = lambda *_, **__: time.sleep(seconds)


if __name__ == "__main__":
    gated.app._EVERY = _LOOKS
    gated.contacts.SETTLE = _SETTLE
    gated.clock.datetime = Wall
    gated.clock._kernel_synchronised = lambda: Wall.synchronised
    log.set_up()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(DrivenApp(load(Path(sys.argv[1])), "secret").run())
