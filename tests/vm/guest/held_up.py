"""How much of a keyboard's barcode outlives a loop that stands still: masked as gated does it, and unmasked.

Prints one JSON object: the most characters that came whole, letters without and with Shift. Runs with gated's
libraries, on the second keyboard, while gated does not hold it.
"""

import asyncio
import json
import time
from collections.abc import Callable

import evdev
from pi import SECOND_HID, SECOND_KEYBOARD, Scanner

from gated.core.barcode import Barcode, Framing, Read
from gated.scanners.hid import HidScanner, open_evdev

MOST = 40
ARRIVE_S = 0.2  # for what was typed to get into the kernel's buffer


async def whole(open_device: Callable[[str], evdev.InputDevice], barcode: str) -> bool:
    """Whether a barcode that is typed while the loop stands still is read whole."""
    reads: asyncio.Queue[Read] = asyncio.Queue()
    found = asyncio.Event()
    reader = HidScanner("second", str(SECOND_KEYBOARD), Framing(), open_device)
    reader.start(lambda read, _: reads.put_nowait(read), lambda *_: found.set())
    await found.wait()
    Scanner().type(barcode, SECOND_HID)
    time.sleep(ARRIVE_S)
    try:
        async with asyncio.timeout(1):
            return await reads.get() == Barcode(barcode)
    except TimeoutError:
        return False
    finally:
        await reader.close()


async def most(open_device: Callable[[str], evdev.InputDevice], letter: str) -> int:
    """The length of the longest barcode that is whole."""
    for length in range(1, MOST):
        if not await whole(open_device, letter * length):
            return length - 1
    return MOST


async def main() -> None:
    ways = {"masked": open_evdev, "unmasked": evdev.InputDevice}
    print(json.dumps({name: [await most(way, "a"), await most(way, "A")] for name, way in ways.items()}))


asyncio.run(main())
