"""The composition root: builds a gate from its configuration, starts and stops its parts in pairs.

It alone knows all parts. Order of a start: the emergency's input is read, then outputs are claimed, at their
safe level; then the store, the lanes, the control socket, the jobs. A stop goes the other way round. Whatever
the network, the server or a scanner does, the lanes are ready first.
"""

import asyncio
import gc
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from gated import __version__, failsafe, log
from gated.api.client import ApiSettings, TicketScanApi
from gated.asking import Asker, AskingRules
from gated.build import build_lane, desk_rules, safe_levels, setting
from gated.clock import Clock, SystemClock
from gated.config import Config, Fallback, Reset, Strategy
from gated.contacts import EmergencyInput
from gated.control import SOCKET, Answers, Command, ControlServer
from gated.core import backoff
from gated.core.barcode import Barcode, read_text
from gated.core.emergency import Came
from gated.core.explain import data_of, lines_of
from gated.core.passage import EmergencyBegan, EmergencyEnded, Mode, ModeCommanded
from gated.core.scan import LaneName, ScanId
from gated.core.signals import Outcome
from gated.drill import drill
from gated.errors import ApiRefused, ControlError, GatedError
from gated.interlock import Interlock
from gated.jobs import Jobs
from gated.lane import Gate, RunningLane
from gated.pins import PinFactory, Pins, open_pins
from gated.pins.chip import STRICT_HINT, LetGo, find_chip, when_let_go
from gated.store import Health, Place, Store, Terms
from gated.sync.downloads import Downloads, Progress
from gated.sync.link import Link
from gated.sync.uploads import Uploads
from gated.systemd import Notifier, runtime_directory

_EVERY = timedelta(seconds=1)  # how often the gate looks at itself
_UPLOAD_AFTER = 0.25  # seconds after a scan: not while its lane is busy with it
_UPLOAD_EVERY = timedelta(seconds=30)
_DELTA_EVERY = timedelta(seconds=120)  # until the service says otherwise
_FULL_EVERY = timedelta(hours=1)
_WARM_EVERY, _PROBE_EVERY = timedelta(seconds=15), timedelta(seconds=5)  # an idle connection lasts 20 s
_UPKEEP_EVERY = timedelta(seconds=20)
_OUTBOX_PAGE = 200  # rows read at once for people
_WATCHING = 256  # events that wait for somebody who watches


class App:
    """One running gate."""

    def __init__(self, config: Config, password: str) -> None:
        self._config = config
        self._password = password
        self._log = log.get("app")
        self._notifier = Notifier()
        self._clock: Clock = SystemClock()
        self._lanes: dict[LaneName, RunningLane] = {}
        self._failures: dict[str, int] = {}
        self._watchers: set[asyncio.Queue[Mapping[str, Any]]] = set()
        self._upload_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Runs the gate until it is told to stop. Raises GatedError if it can't start or a part has died."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            gc.collect()
            gc.freeze()  # what is there now stays: a full collection took 25 ms, in which no scan was read
            self._notifier.send("READY=1", "STATUS=Lanes are working")
            self._log.info("ready", gate=self._config.gate.name, lanes=list(self._lanes), version=__version__)
            try:
                await self._look_after()
            finally:
                for lane in self._lanes.values():
                    lane.relock()
                self._notifier.send("STOPPING=1")
                self._log.info("stopping")
        self._log.info("stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self._config
        control = ControlServer(runtime_directory(config.gate.state_dir) / SOCKET, self._commands())
        control.check_alone()
        pins = open_pins(config.pins.factory, asyncio.get_running_loop())
        stack.callback(pins.close)
        if config.pins.factory is PinFactory.LGPIO:
            self._prepare_for_death()
        self._store = Store(config.gate.state_dir, desk_rules(config))
        self._store.start()
        stack.push_async_callback(self._store.close)
        self._emergency = await self._claim_emergency(pins)
        stack.callback(self._emergency.close)
        self._start_talk(stack)
        await self._start_lanes(pins, stack)
        await control.start()
        stack.push_async_callback(control.close)
        self._start_jobs(stack)

    def _prepare_for_death(self) -> None:
        """Before an output is claimed: what is to be made safe by others, and whether the kernel helps."""
        chip = find_chip(Path("/"))
        record = runtime_directory(self._config.gate.state_dir) / failsafe.RECORD
        try:
            failsafe.remember(str(record), chip.number, safe_levels(self._config))
        except OSError as error:  # the config stands in for it
            self._log.error("failsafe_not_recorded", error=str(error))
        if (let_go := when_let_go(chip, Path("/"))) is not LetGo.INPUT:
            self._log.warning("outputs_outlive_gated", kernel=let_go, hint=STRICT_HINT)

    async def _claim_emergency(self, pins: Pins) -> EmergencyInput:
        config = self._config.emergency
        latched = bool(await self._store.note("emergency"))
        automatic = config is not None and config.reset is Reset.AUTOMATIC
        emergency = EmergencyInput(latched=latched, automatic=automatic, monotonic=time.monotonic)
        if config is not None:
            emergency.claim(pins, config.pin, config.normally)
        return emergency

    def _start_talk(self, stack: AsyncExitStack) -> None:
        config = self._config
        settings = ApiSettings(
            base_url=config.api.base_url,
            username=config.api.username,
            device_info=config.api.device_info,
            ca_file=config.api.ca_file,
            trusted_hosts=config.api.trusted_hosts,
            page_size=config.api.page_size,
        )
        api = TicketScanApi(settings, self._password)
        stack.push_async_callback(api.close)
        rules = AskingRules(config.api.direct_timeout, config.decision.fallback is Fallback.LOCAL)
        self._asker = Asker(api, self._store, rules, self._clock)
        stack.push_async_callback(self._asker.close)
        self._link = Link(api, self._store, self._asker, self._clock, config.api.service)
        self._uploads = Uploads(self._link)
        self._downloads = Downloads(self._link, self._run_soon)

    async def _start_lanes(self, pins: Pins, stack: AsyncExitStack) -> None:
        gate = Gate(self._store, self._asker, self._clock, self._happened)
        turns: defaultdict[str, Interlock] = defaultdict(Interlock)
        for config in self._config.lanes:
            turn = turns[config.barrier] if config.interlock else None
            lane = build_lane(config, setting(config, self._config, turn), pins, gate)
            stack.push_async_callback(lane.close)
            self._lanes[config.name] = lane
            if (mode := await self._store.note(f"mode:{config.name}")) is not None:
                lane.feed(ModeCommanded(Mode(str(mode))))
            if self._emergency.state.on:
                lane.feed(EmergencyBegan())
        self._emergency.watch(self._emergency_came)
        for lane in self._lanes.values():
            lane.start()

    def _start_jobs(self, stack: AsyncExitStack) -> None:
        self._jobs = Jobs()
        self._add_job("upload", self._uploads.run, lambda: _UPLOAD_EVERY)
        self._add_job("full", self._downloads.full, lambda: _FULL_EVERY)
        self._add_job("delta", self._downloads.delta, self._sync_interval)
        self._add_job("probe", self._probe, self._probe_interval)
        self._add_job("upkeep", self._store.upkeep, lambda: _UPKEEP_EVERY)
        self._jobs.start()
        stack.push_async_callback(self._jobs.close)

    def _add_job(
        self, name: str, run: Callable[[], Awaitable[object]], every: Callable[[], timedelta]
    ) -> None:
        """Adds a job that backs off while it fails; its errors are logged where they are known best."""
        wish_s: float | None = None

        async def attempt() -> None:
            nonlocal wish_s
            try:
                await run()
            except GatedError as error:
                self._failures[name] = self._failures.get(name, 0) + 1
                wish_s = error.retry_after_s if isinstance(error, ApiRefused) else None
            else:
                self._failures[name] = 0

        def interval() -> timedelta:
            failures = self._failures.get(name, 0)
            return backoff.pause(failures, random.random(), wish_s) if failures else every()  # noqa: S311

        self._jobs.add(name, attempt, interval)

    async def _probe(self) -> None:
        """Asks whether the API answers; when it does again, everything that waited for it goes at once."""
        away = not self._asker.worthwhile
        await self._link.probe()
        if away and self._asker.worthwhile:
            for job in ("upload", "delta"):
                self._jobs.run_now(job)

    def _run_soon(self, job: str) -> None:
        """What a download has found makes another job due."""
        self._jobs.run_now(job)

    def _sync_interval(self) -> timedelta:
        return self._link.service.sync_interval if self._link.service else _DELTA_EVERY

    def _probe_interval(self) -> timedelta:
        return _WARM_EVERY if self._asker.worthwhile else _PROBE_EVERY

    async def _look_after(self) -> None:
        """Until told to stop: shows how the gate is, and pings the watchdog while all of it works."""
        while not self._stopping.is_set():
            self._check_alive()
            self._notifier.send("WATCHDOG=1")
            resting = self._resting(await self._health())
            for lane in self._lanes.values():
                lane.set_resting(resting)
            try:
                async with asyncio.timeout(_EVERY.total_seconds()):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _check_alive(self) -> None:
        dead = [name for name, lane in self._lanes.items() if not lane.alive]
        if not self._store.alive:
            dead.append(LaneName("store"))
        if dead:
            raise GatedError(f"dead: {', '.join(dead)}", hint="systemd starts gated again.")

    async def _health(self) -> Health | None:
        """The store's health; None while the disk makes it wait, which must not hold up anything here."""
        try:
            async with asyncio.timeout(_EVERY.total_seconds()):
                return await self._store.health()
        except (TimeoutError, GatedError):
            return None

    def _resting(self, health: Health | None) -> Outcome:
        if health is None or health.undurable:
            return Outcome.DISK_FAILING
        if not health.complete:
            return Outcome.NOT_READY
        return Outcome.OFFLINE if self._link.trouble is not None else Outcome.READY

    # What happens

    def _happened(self, lane: LaneName, what: str, detail: Mapping[str, object]) -> None:
        self._publish({"lane": lane, "what": what, "at": time.monotonic(), **detail})
        if what == "scan" and self._upload_timer is None and not self._failures.get("upload"):
            loop = asyncio.get_running_loop()
            self._upload_timer = loop.call_later(_UPLOAD_AFTER, self._upload_soon)

    def _upload_soon(self) -> None:
        self._upload_timer = None
        if not self._stopping.is_set():
            self._jobs.run_now("upload")

    def _publish(self, event: Mapping[str, Any]) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def _emergency_came(self, came: Came) -> None:
        self._publish({"lane": "", "what": "emergency", "came": came, "edge": self._emergency.state.since})
        self._log.warning("emergency", came=came)
        for lane in self._lanes.values():
            if came is Came.BEGAN:
                lane.feed(EmergencyBegan())
            elif came is not Came.LATCHED:
                lane.feed(EmergencyEnded())
        task = asyncio.create_task(self._journal_emergency(came))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _journal_emergency(self, came: Came) -> None:
        if came in (Came.LATCHED, Came.ENDED):
            await self._store.set_note("emergency", int(came is Came.LATCHED))
        await self._store.occurred("emergency", None, came, "", self._clock.now())

    # Commands

    def _commands(self) -> dict[str, Command]:
        return {
            "status": self._status,
            "watch": self._watch,
            "sync": self._sync_command,
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
        state = await self._store.state()
        now = self._clock.now()
        trouble = self._link.trouble
        yield {
            "gate": self._config.gate.name,
            "version": __version__,
            "strategy": self._config.gate.strategy,
            "service": self._link.service.name if self._link.service else state.service,
            "api": "ok" if trouble is None and self._link.service else str(trouble or "not reached yet"),
            "emergency": self._emergency.state.on,
            "time": now.wall.isoformat(timespec="seconds"),
            "time_trust": now.trust,
            "alarms": self._link.alarms,
            "store": asdict(state),
            "lanes": [lane.view() for lane in self._lanes.values()],
        }

    async def _watch(self) -> Answers:
        queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_WATCHING)
        self._watchers.add(queue)
        try:
            for lane in self._lanes.values():
                yield {"lane": lane.setting.name, "what": "view", **lane.view()}
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def _sync_command(self, *, full: bool = False, accept_removals: bool = False) -> Answers:
        try:
            yield {"uploaded": await self._uploads.run()}
        except GatedError as error:  # no reason to keep tickets from coming down
            yield {"upload_failed": str(error), "hint": error.hint}
        if not full:
            yield {"changed": await self._downloads.delta()}
            return
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        download = asyncio.create_task(
            self._downloads.full(steps.put_nowait, accept_removals=accept_removals), name="sync command"
        )
        download.add_done_callback(lambda _: steps.put_nowait(None))
        while (step := await steps.get()) is not None:
            yield asdict(step)
        yield {"tickets": await download}

    async def _outbox(self, *, clear: bool = False) -> Answers:
        """Every row of the outbox; barcodes masked unless ``clear``."""
        after = 0
        while rows := await self._store.outbox_rows(after, _OUTBOX_PAGE):
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
        count = await self._store.retry_parked()
        await self._store.occurred("command", None, "outbox retry", "", self._clock.now())
        for kind in ("parked", "uncertain"):
            self._link.alarms.pop(kind, None)
        self._jobs.run_now("upload")
        yield {"retried": count}

    async def _release(self, *, lane: str, why: str, ticket: str = "") -> Answers:
        running = self._lane(lane)
        if ticket and self._emergency.state.on:
            raise ControlError("in an emergency no ticket is checked in", hint="Leave --ticket out.")
        if not await running.release_by_operator(_barcode(ticket)):
            raise ControlError(f"{lane} is locked", hint=f'Unlock it first: gated mode "{lane}" controlled')
        await self._store.occurred("command", lane, "release", why, self._clock.now())
        self._log.info("released_by_operator", lane=lane, why=why)
        yield {"released": lane}

    async def _mode(self, *, lane: str, mode: str) -> Answers:
        running = self._lane(lane)
        if mode not in list(Mode):
            raise ControlError(f"{mode!r} is no mode", hint=f"One of: {', '.join(Mode)}")
        running.feed(ModeCommanded(Mode(mode)))
        if running.mode != mode:
            raise ControlError(f"{lane} can't be {mode}: it is an exit that always opens")
        await self._store.set_note(f"mode:{lane}", mode)
        await self._store.occurred("command", lane, f"mode {mode}", "", self._clock.now())
        yield {"lane": lane, "mode": mode}

    async def _reset_emergency(self, *, why: str) -> Answers:
        if why_not := self._emergency.reset():
            raise ControlError(why_not, hint="Look at the fire panel and at the wire of [emergency] pin.")
        await self._store.occurred("command", None, "emergency reset", why, self._clock.now())
        yield {"emergency": False}

    async def _drill(self, *, within_s: float) -> Answers:
        if self._config.emergency is None:
            raise ControlError("this gate watches no alarm", hint="Wire it, and write [emergency] pin.")
        if self._emergency.state.on:
            raise ControlError("there is an emergency already", hint="End it: gated emergency reset --why …")
        lanes = {name: lane.setting.rules.profile for name, lane in self._lanes.items()}
        queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_WATCHING)
        self._watchers.add(queue)
        try:
            async for answer in drill(queue, lanes, timedelta(seconds=within_s)):
                if "lane" in answer:
                    what = f"{answer['profile']}: {answer['took_ms']} ms"
                    await self._store.occurred("drill", answer["lane"], what, "", self._clock.now())
                yield answer
        finally:
            self._watchers.discard(queue)

    async def _explain(self, *, barcode: str) -> Answers:
        text, now = _barcode(barcode), self._clock.now()
        if not text:
            raise ControlError("that is no barcode: empty")
        scan = _scan_id(text)
        known = await self._store.explain_scan(scan, now) if scan else None
        known = known or await self._store.explain(text, self._places(), now)
        zone = ZoneInfo(self._config.gate.time_zone)
        yield {"lines": lines_of(known, zone), "explanation": data_of(known)}

    def _places(self) -> list[Place]:
        """The lanes, those together that decide alike."""
        alike: defaultdict[Place, list[LaneName]] = defaultdict(list)
        direct = self._config.gate.strategy is Strategy.DIRECT
        answers = self._asker.worthwhile
        for lane in self._lanes.values():
            setting = lane.setting
            terms = Terms(
                lane_types=setting.ticket_types,
                ask_known=setting.ask_known and answers,
                ask_unknown=setting.ask_unknown and answers,
                unasked=direct and not answers and not self._asker.falls_back,
            )
            alike[Place((), setting.rules.direction, terms, setting.rules.opens_always)].append(setting.name)
        return [replace(place, lanes=tuple(names)) for place, names in alike.items()]

    async def _purge(self, *, why: str = "", lose_outbox: bool = False) -> Answers:
        try:
            yield {"uploaded": await self._uploads.run()}
        except GatedError as error:  # what waits for the server is counted next
            yield {"upload_failed": str(error), "hint": error.hint}
        async with self._downloads.paused(), self._uploads.paused():
            waiting = await self._store.purge(why, self._clock.now(), lose_outbox=lose_outbox)
        if waiting and not lose_outbox:
            raise ControlError(
                f"scans still wait for the server: {waiting}",
                hint="See which: gated outbox. To lose them: gated purge --lose-outbox",
            )
        self._log.warning("purged", why=why, scans_lost=waiting)
        self._link.alarms.clear()
        self._jobs.run_now("full")
        yield {"purged": True, "lost": waiting}

    def _lane(self, name: str) -> RunningLane:
        found = self._lanes.get(LaneName(name))
        if found is None:
            raise ControlError(f"there is no lane {name!r}", hint=f"One of: {', '.join(self._lanes)}")
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
