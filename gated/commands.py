"""What a running gate does when it is asked: the commands behind its control socket.

Each is an asynchronous generator of answers; its keywords are what the command line sends.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from gated import __version__, log
from gated.clock import Clock
from gated.config import Config
from gated.contacts import EmergencyInput
from gated.control import Answers, Command
from gated.core.barcode import Barcode, read_text
from gated.core.events import Mode, ModeCommanded
from gated.core.explain import data_of, lines_of
from gated.core.scan import LaneName, ScanId
from gated.drill import drill
from gated.errors import ControlError, GatedError
from gated.jobs import Jobs
from gated.lane import RunningLane
from gated.store import Place, Store
from gated.sync.downloads import Downloads, Progress
from gated.sync.link import Link
from gated.sync.uploads import Uploads

_OUTBOX_PAGE = 200  # rows read at once for people
_WATCHING = 256  # events that wait for somebody who watches; older ones give way


class Watchers:
    """Who watches what happens at the lanes."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Mapping[str, Any]]] = set()

    def publish(self, event: Mapping[str, Any]) -> None:
        """Tells everybody who watches."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextmanager
    def watching(self) -> Iterator[asyncio.Queue[Mapping[str, Any]]]:
        """A queue of what happens from now on."""
        queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_WATCHING)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running gate that commands concern."""

    config: Config
    clock: Clock
    store: Store
    link: Link
    uploads: Uploads
    downloads: Downloads
    jobs: Jobs
    emergency: EmergencyInput
    lanes: Mapping[LaneName, RunningLane]
    watchers: Watchers


class Commands:
    """The commands of one running gate."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._log = log.get("commands")

    def table(self) -> dict[str, Command]:
        """Each command under its name."""
        return {
            "status": self._status,
            "watch": self._watch,
            "sync": self._sync,
            "outbox": self._outbox,
            "outbox-retry": self._retry_outbox,
            "release": self._release,
            "mode": self._mode,
            "emergency-reset": self._reset_emergency,
            "drill": self._drill,
            "explain": self._explain,
            "purge": self._purge,
        }

    async def _status(self) -> Answers:
        state = await self._parts.store.state_for_people()
        now = self._parts.clock.now()
        trouble, service = self._parts.link.trouble, self._parts.link.service
        yield {
            "gate": self._parts.config.gate.name,
            "version": __version__,
            "strategy": self._parts.config.gate.strategy,
            "service": service.name if service else state.service,
            "api": "ok"
            if trouble is None and self._parts.link.service
            else str(trouble or "not reached yet"),
            "emergency": self._parts.emergency.state.on,
            "time": now.wall.isoformat(timespec="seconds"),
            "time_trust": now.trust,
            "alarms": self._parts.link.alarms,
            "store": asdict(state),
            "lanes": [lane.view() for lane in self._parts.lanes.values()],
        }

    async def _watch(self) -> Answers:
        with self._parts.watchers.watching() as events:
            for lane in self._parts.lanes.values():
                yield {"lane": lane.setting.name, "what": "view", **lane.view()}
            while True:
                yield await events.get()

    async def _sync(self, *, full: bool = False, accept_removals: bool = False) -> Answers:
        try:
            yield {"uploaded": await self._parts.uploads.run()}
        except GatedError as error:  # no reason to keep tickets from coming down
            yield {"upload_failed": str(error), "hint": error.hint}
        if not full:
            yield {"changed": await self._parts.downloads.delta()}
            return
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        download = asyncio.create_task(
            self._parts.downloads.full(steps.put_nowait, accept_removals=accept_removals), name="sync command"
        )
        download.add_done_callback(lambda _: steps.put_nowait(None))
        while (step := await steps.get()) is not None:
            yield asdict(step)
        yield {"tickets": await download}

    async def _outbox(self, *, clear: bool = False) -> Answers:
        """Every row of the outbox; barcodes masked unless ``clear``."""
        after = 0
        while rows := await self._parts.store.outbox_rows(after, _OUTBOX_PAGE):
            for row in rows:
                yield {
                    "scan": str(UUID(bytes=row.scan)),
                    "time_ms": row.wall_ms,
                    "lane": row.lane,
                    "barcode": row.barcode_id if clear else log.masked(row.barcode_id),
                    "code": row.code,
                    "message": row.message,
                    "lost": bool(row.lost),
                    "parked": row.parked,
                }
            after = rows[-1].seq

    async def _retry_outbox(self) -> Answers:
        count = await self._parts.store.retry_parked()
        await self._journal("command", None, "outbox retry", "")
        for kind in ("parked", "uncertain"):
            self._parts.link.alarms.pop(kind, None)
        self._parts.jobs.run_now("upload")
        yield {"retried": count}

    async def _release(self, *, lane: str, why: str, ticket: str = "") -> Answers:
        running = self._lane(lane)
        if ticket and self._parts.emergency.state.on:
            raise ControlError("in an emergency no ticket is checked in", hint="Leave --ticket out.")
        if not await running.release_by_operator(_barcode(ticket)):
            raise ControlError(f"{lane} is locked", hint=f'Unlock it first: gated mode "{lane}" controlled')
        await self._journal("command", lane, "release", why)
        self._log.info("released_by_operator", lane=lane, why=why)
        yield {"released": lane}

    async def _mode(self, *, lane: str, mode: str) -> Answers:
        running = self._lane(lane)
        if mode not in list(Mode):
            raise ControlError(f"{mode!r} is no mode", hint=f"One of: {', '.join(Mode)}")
        running.feed(ModeCommanded(Mode(mode)))
        if running.mode != mode:
            raise ControlError(f"{lane} can't be {mode}: it is an exit that always opens")
        await self._parts.store.set_note(f"mode:{lane}", mode)
        await self._journal("command", lane, f"mode {mode}", "")
        yield {"lane": lane, "mode": mode}

    async def _reset_emergency(self, *, why: str) -> Answers:
        if why_not := self._parts.emergency.reset():
            raise ControlError(why_not, hint="Look at the fire panel and at the wire of [emergency] pin.")
        await self._journal("command", None, "emergency reset", why)
        yield {"emergency": False}

    async def _drill(self, *, within_s: float) -> Answers:
        if self._parts.config.emergency is None:
            raise ControlError("this gate watches no alarm", hint="Wire it, and write [emergency] pin.")
        if self._parts.emergency.state.on:
            raise ControlError("there is an emergency already", hint="End it: gated emergency reset --why …")
        lanes = {name: lane.setting.rules.profile for name, lane in self._parts.lanes.items()}
        with self._parts.watchers.watching() as events:
            async for answer in drill(events, lanes, timedelta(seconds=within_s)):
                if "lane" in answer:
                    what = f"{answer['profile']}: {answer['took_ms']} ms"
                    await self._journal("drill", answer["lane"], what, "")
                yield answer

    async def _explain(self, *, barcode: str) -> Answers:
        text, now = _barcode(barcode), self._parts.clock.now()
        if not text:
            raise ControlError("that is no barcode: empty")
        scan = _scan_id(text)
        known = await self._parts.store.explain_scan(scan, now) if scan else None
        known = known or await self._parts.store.explain(text, self._places(), now)
        zone = ZoneInfo(self._parts.config.gate.time_zone)
        yield {"lines": lines_of(known, zone), "explanation": data_of(known)}

    def _places(self) -> list[Place]:
        """The lanes, those together that decide alike."""
        alike: defaultdict[Place, list[LaneName]] = defaultdict(list)
        for lane in self._parts.lanes.values():
            setting, terms = lane.setting, lane.terms()
            alike[Place((), setting.rules.direction, terms, setting.rules.opens_always)].append(setting.name)
        return [replace(place, lanes=tuple(names)) for place, names in alike.items()]

    async def _purge(self, *, why: str = "", lose_outbox: bool = False) -> Answers:
        try:
            yield {"uploaded": await self._parts.uploads.run()}
        except GatedError as error:  # what waits for the server is counted next
            yield {"upload_failed": str(error), "hint": error.hint}
        async with self._parts.downloads.paused(), self._parts.uploads.paused():
            waiting = await self._parts.store.purge(why, self._parts.clock.now(), lose_outbox=lose_outbox)
        if waiting and not lose_outbox:
            raise ControlError(
                f"scans still wait for the server: {waiting}",
                hint="See which: gated outbox. To lose them: gated purge --lose-outbox",
            )
        self._log.warning("purged", why=why, scans_lost=waiting)
        self._parts.link.alarms.clear()
        self._parts.jobs.run_now("full")
        yield {"purged": True, "lost": waiting}

    async def _journal(self, kind: str, lane: str | None, what: str, why: str) -> None:
        await self._parts.store.occurred(kind, lane, what, why, self._parts.clock.now())

    def _lane(self, name: str) -> RunningLane:
        found = self._parts.lanes.get(LaneName(name))
        if found is None:
            raise ControlError(f"there is no lane {name!r}", hint=f"One of: {', '.join(self._parts.lanes)}")
        return found


def _scan_id(text: str) -> ScanId | None:
    """The id that a text may be: that of a scan is a UUIDv7, as the log tells it."""
    try:
        scan = UUID(text)
    except ValueError:
        return None
    return ScanId(scan) if scan.version == 7 and str(scan) == text.lower() else None


def _barcode(typed: str) -> str:
    """A barcode that an operator typed, read as a scanner's would be; blank for none. Raises ControlError."""
    read = read_text(typed) if typed else Barcode("")
    if not isinstance(read, Barcode):
        raise ControlError(f"that is no barcode: {read.why.replace('_', ' ')}")
    return read.text
