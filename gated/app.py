"""The composition root: builds a gate from its configuration, starts and stops its parts in pairs.

It alone knows all parts. Order of a start: the emergency's input is read, then outputs are claimed, at their
safe level; then the store, the lanes, the control socket, the jobs. A stop goes the other way round. Whatever
the network, the server or a scanner does, the lanes are ready first.
"""

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from gated import __version__, log
from gated.api.client import ApiSettings, TicketScanApi
from gated.asking import Asker, AskingRules
from gated.build import build_lane, desk_rules, setting
from gated.clock import Clock, SystemClock
from gated.config import Config, Fallback, Reset
from gated.contacts import EmergencyInput
from gated.control import SOCKET, Answers, Command, ControlServer
from gated.core import backoff
from gated.core.barcode import Barcode, read_text
from gated.core.emergency import Came
from gated.core.passage import EmergencyBegan, EmergencyEnded, Mode, ModeCommanded
from gated.core.scan import LaneName
from gated.core.signals import Outcome
from gated.errors import ApiRefused, ControlError, GatedError
from gated.interlock import Interlock
from gated.jobs import Jobs
from gated.lane import Gate, RunningLane
from gated.pins import Pins, open_pins
from gated.store import Health, Store
from gated.sync import Progress, Sync
from gated.systemd import Notifier, runtime_directory

_EVERY = timedelta(seconds=1)  # how often the gate looks at itself
_UPLOAD_AFTER = 0.25  # seconds after a scan: not while its lane is busy with it
_UPLOAD_EVERY = timedelta(seconds=30)
_DELTA_EVERY = timedelta(seconds=120)  # until the service says otherwise
_FULL_EVERY = timedelta(hours=1)
_WARM_EVERY, _PROBE_EVERY = timedelta(seconds=15), timedelta(seconds=5)  # an idle connection lasts 20 s
_UPKEEP_EVERY = timedelta(seconds=20)
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
            self._notifier.send("READY=1", "STATUS=Lanes are working")
            self._log.info("ready", gate=self._config.gate.name, lanes=list(self._lanes), version=__version__)
            try:
                await self._look_after()
            finally:
                self._notifier.send("STOPPING=1")
                self._log.info("stopping")
        self._log.info("stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self._config
        control = ControlServer(runtime_directory(config.gate.state_dir) / SOCKET, self._commands())
        control.check_alone()
        pins = open_pins(config.pins.factory, asyncio.get_running_loop())
        stack.callback(pins.close)
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
        self._asker = Asker(api, self._store, rules, time.monotonic)
        stack.push_async_callback(self._asker.close)
        self._sync = Sync(api, self._store, self._asker, self._clock, config.api.service)

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
        self._add_job("upload", self._sync.upload, lambda: _UPLOAD_EVERY)
        self._add_job("full", self._sync.full, lambda: _FULL_EVERY)
        self._add_job("delta", self._sync.delta, self._sync_interval)
        self._add_job("probe", self._sync.probe, self._probe_interval)
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

    def _sync_interval(self) -> timedelta:
        return self._sync.service.sync_interval if self._sync.service else _DELTA_EVERY

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
        return Outcome.OFFLINE if self._sync.trouble is not None else Outcome.READY

    # What happens

    def _happened(self, lane: LaneName, what: str, detail: Mapping[str, object]) -> None:
        self._publish({"lane": lane, "what": what, **detail})
        if what == "scan" and self._upload_timer is None and self._sync.trouble is None:
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
            "release": self._release,
            "mode": self._mode,
            "emergency-reset": self._reset_emergency,
        }

    async def _status(self) -> Answers:
        state = await self._store.state()
        now = self._clock.now()
        trouble = self._sync.trouble
        yield {
            "gate": self._config.gate.name,
            "version": __version__,
            "strategy": self._config.gate.strategy,
            "service": self._sync.service.name if self._sync.service else state.service,
            "api": "ok" if trouble is None and self._sync.service else str(trouble or "not reached yet"),
            "emergency": self._emergency.state.on,
            "time": now.wall.isoformat(timespec="seconds"),
            "time_trust": now.trust,
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
            yield {"uploaded": await self._sync.upload()}
        except GatedError as error:  # no reason to keep tickets from coming down
            yield {"upload_failed": str(error), "hint": error.hint}
        if not full:
            yield {"changed": await self._sync.delta()}
            return
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        download = asyncio.create_task(
            self._sync.full(steps.put_nowait, accept_removals=accept_removals), name="sync command"
        )
        download.add_done_callback(lambda _: steps.put_nowait(None))
        while (step := await steps.get()) is not None:
            yield asdict(step)
        yield {"tickets": await download}

    async def _release(self, *, lane: str, why: str, ticket: str = "") -> Answers:
        running = self._lane(lane)
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

    def _lane(self, name: str) -> RunningLane:
        found = self._lanes.get(LaneName(name))
        if found is None:
            raise ControlError(f"there is no lane {name!r}", hint=f"One of: {', '.join(self._lanes)}")
        return found


def _barcode(typed: str) -> str:
    """A barcode that an operator typed, read as a scanner's would be; blank for none. Raises ControlError."""
    read = read_text(typed) if typed else Barcode("")
    if not isinstance(read, Barcode):
        raise ControlError(f"that is no barcode: {read.why}")
    return read.text
