"""An outbox full of scans, as that of a gate which was offline for long."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from gated.clock import SystemClock, new_scan_id
from gated.core.scan import Direction, LaneName, Scan
from gated.store import DeskRules, Store, Terms

_AT_ONCE = 10  # so few that none waits for a second: then it would be answered without the disk


def fill_outbox(state_dir: Path, barcodes: Iterable[str]) -> int:
    """Admits these tickets and uploads nothing; returns how many."""
    return asyncio.run(_fill(state_dir, barcodes))


async def _fill(state_dir: Path, barcodes: Iterable[str]) -> int:
    store, clock = Store(state_dir, DeskRules()), SystemClock()
    store.start()
    left, admitted = iter(barcodes), 0
    while some := tuple(islice(left, _AT_ONCE)):
        scans = []
        for barcode in some:
            at = clock.now()
            scans.append(Scan(new_scan_id(at), barcode, LaneName("in"), Direction.ENTRY, at))
        await asyncio.gather(*(store.decide(scan, Terms()) for scan in scans))
        admitted += len(scans)
    await store.close()
    return admitted
