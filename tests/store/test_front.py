"""Where scans are handed in: what else is long on the loop gives way to them."""

import asyncio
import threading
from functools import partial
from typing import cast

from gated.store.desk import Desk
from gated.store.front import Front
from gated.store.writer import Writer
from tests.store.desks import scan

NOBODY = cast("Desk", None)  # what is handed in here asks no desk anything


def _once(decided: threading.Event, _: Desk) -> bool:
    return decided.wait(10)


async def test_who_gives_way_goes_on_when_the_last_scan_is_decided() -> None:
    writer = Writer("store")
    front = Front(writer, NOBODY, NOBODY)
    writer.start()
    front.start()
    decided = [threading.Event(), threading.Event()]
    pieces = [front.do(scan("T1"), partial(_once, each)) for each in decided]
    giving_way = asyncio.create_task(front.quiet())
    decided[0].set()
    await pieces[0]
    await asyncio.sleep(0)
    assert not giving_way.done()
    decided[1].set()
    await pieces[1]
    await giving_way
    await writer.close(within_s=10)
    await front.close(within_s=10)


async def test_nobody_gives_way_while_no_scan_is_at_a_desk() -> None:
    await asyncio.wait_for(Front(Writer("store"), NOBODY, NOBODY).quiet(), 10)
