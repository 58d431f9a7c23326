"""``gated hardware test``: goes through every output, contact and scanner of a gate with whoever mounted it.

- The pins are the daemon's: while one runs nothing is touched, and while this runs none can start.
- Whatever ends it, all outputs are off, and there is a result for every part.

What the answers mean is in :mod:`gated.core.commissioning`.
"""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from gated.commissioning.bench import Bench
from gated.commissioning.site import check_place, report_path, site
from gated.commissioning.talk import BrokenOff, Talk
from gated.config import Config
from gated.control import SOCKET, ControlServer
from gated.core.commissioning import Found, Result, summary
from gated.pins import open_pins
from gated.systemd import runtime_directory

__all__ = ["Outcome", "Talk", "check_place", "commission", "report_path", "site"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a test, and whether it was gone through to its end."""

    results: Sequence[Result]
    whole: bool

    @property
    def good(self) -> bool:
        """Whether nothing failed, to the end."""
        return self.whole and all(result.found is not Found.FAILED for result in self.results)

    def as_data(self) -> list[dict[str, str]]:
        """The results for programs."""
        return [asdict(result) for result in self.results]


async def commission(config: Config, talk: Talk) -> Outcome:
    """Tests a gate. Ctrl-C, a closed terminal and SIGTERM end it as BrokenOff does.

    Raises GatedError if a daemon runs, or the pins can't be claimed.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        place = ControlServer(runtime_directory(config.gate.state_dir) / SOCKET, {})
        await place.start()
        stack.push_async_callback(place.close)
        pins = open_pins(config.pins.factory, loop)
        stack.callback(pins.close)
        bench = Bench(config, pins, talk)
        testing = asyncio.create_task(bench.run())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, testing.cancel)
            stack.callback(loop.remove_signal_handler, number)
        try:
            await testing
            whole = True
        except (BrokenOff, asyncio.CancelledError):
            talk.tell("\nBroken off.")
            whole = False
        outcome = Outcome(bench.all_results(), whole)
        talk.tell(f"\n{summary(outcome.results)}.")
        return outcome
