"""The composition root: builds a gate from its configuration, starts and stops its parts in pairs.

It alone knows all parts. Order of a start: the emergency's input is read, then outputs are claimed, at their
safe level; then the store, the lanes, the control socket, the jobs. A stop goes the other way round. Whatever
the network, the server or a scanner does, the lanes are ready first.
"""

import asyncio
import gc
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from traceback import walk_tb
from typing import Any

from gated import __version__, failsafe, log
from gated.api.client import ApiSettings, TicketScanApi
from gated.asking import Asker, AskingRules
from gated.build import build_lane, desk_rules, safe_levels, setting
from gated.clock import Clock, SystemClock
from gated.commands import Commands, Parts, Watchers
from gated.config import Config, Fallback, Reset
from gated.contacts import EmergencyInput
from gated.control import SOCKET, ControlServer, check_alone
from gated.core import backoff
from gated.core.emergency import Came
from gated.core.events import EmergencyBegan, EmergencyEnded, Mode, ModeCommanded
from gated.core.scan import LaneName
from gated.core.signals import Outcome
from gated.errors import ApiRefused, ControlError, GatedError
from gated.interlock import Interlock
from gated.jobs import Jobs
from gated.lane import Gate, RunningLane
from gated.latch import LatchKeeper, was_latched
from gated.pins import PinFactory, Pins, open_pins
from gated.pins.chip import STRICT_HINT, LetGo, find_chip, when_let_go
from gated.store import Health, Store
from gated.sync.downloads import Downloads
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
# For systemd, whose limit of a start is a matter of seconds: a damaged journal is salvaged row by row.
_SALVAGE_MOST = timedelta(minutes=10)
_DISK_FAILING = "Scans wait in memory, tickets may not come down: look at the card or disk."
_MICROSECOND = timedelta(microseconds=1)
# How long the database thread may keep the interpreter while the loop waits for it: a scan changes hands
# three times, and at Python's own 5 ms a time that was felt while a download was written.
_SWITCH_EVERY_S = 0.0005


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
        self._watchers = Watchers()
        self._upload_timer: asyncio.TimerHandle | None = None
        self._failed_callback: BaseException | None = None
        self._control_lost = False
        self._mirrors_renewed = 0  # those that were told of
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Runs the gate until it is told to stop. Raises GatedError if it can't start or a part has died."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        sys.setswitchinterval(_SWITCH_EVERY_S)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            gc.freeze()  # what is there now stays: a full collection took 25 ms, in which no scan was read
            gc.enable()
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
        socket = runtime_directory(config.gate.state_dir) / SOCKET
        check_alone(socket)
        self._pins = pins = open_pins(config.pins.factory, asyncio.get_running_loop())
        stack.callback(pins.close)
        if config.pins.factory is PinFactory.LGPIO:
            self._prepare_for_death()
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={_SALVAGE_MOST // _MICROSECOND}")
        self._store = Store(config.gate.state_dir, desk_rules(config))
        self._notifier.send("WATCHDOG=1")  # it counts from here on: what is left takes no time
        self._store.start()
        stack.push_async_callback(self._store.close)
        self._emergency = await self._claim_emergency(pins)
        self._latch = LatchKeeper(self._emergency, self._store, self._clock, self._alarm_if)
        stack.push_async_callback(self._latch.finish)
        stack.callback(self._emergency.close)
        self._start_talk(stack)
        await self._start_lanes(pins, stack)
        self._start_jobs(stack)
        self._control = ControlServer(socket, Commands(self._parts()).table())
        await self._control.start()
        stack.push_async_callback(self._control.close)

    def _parts(self) -> Parts:
        return Parts(
            config=self._config,
            clock=self._clock,
            store=self._store,
            link=self._link,
            uploads=self._uploads,
            downloads=self._downloads,
            jobs=self._jobs,
            emergency=self._emergency,
            lanes=self._lanes,
            watchers=self._watchers,
        )

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
        latched = await was_latched(self._store)
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
        api = TicketScanApi(settings, self._password, give_way=self._store.give_way)
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
            return backoff.pause(failures, random.random(), wish_s) if failures else every()  # noqa: S311 - no secret

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
            self._emergency.look()
            self._latch.write()
            if not self._control.alive:
                await self._restart_control()
            health = await self._health()
            self._tell_of_store(health)
            resting = self._resting(health)
            for lane in self._lanes.values():
                lane.set_resting(resting)
            try:
                async with asyncio.timeout(_EVERY.total_seconds()):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _check_alive(self) -> None:
        """Raises GatedError, which ends gated, if a part is dead: nothing goes on with half of the gate."""
        alive = {
            **{f"lane {name}": lane.alive for name, lane in self._lanes.items()},
            "store": self._store.alive,
            "inputs": self._pins.alive,
            "log": log.alive(),
            "callback": self._failed_callback is None,
        }
        dead = [*(part for part, is_alive in alive.items() if not is_alive), *self._dead_jobs()]
        if dead:
            self._log.error("dead", parts=dead)
            raise GatedError(f"dead: {', '.join(dead)}", hint="systemd starts gated again.")

    def _dead_jobs(self) -> list[str]:
        return [f"job {name}" for name in self._jobs.dead]

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours that raised has left its part in the middle of something: that part is dead.

        What libraries do in callbacks of their own (a connection that breaks) is logged, and no more.
        """
        loop.default_exception_handler(context)
        error = context.get("exception")
        if "handle" in context and error is not None and _is_ours(error):
            self._failed_callback = error

    async def _restart_control(self) -> None:
        """The gate goes on without commands for as long as it takes: no guest is to wait for them."""
        try:
            await self._control.restart()
        except ControlError as error:
            if not self._control_lost:
                self._log.error("control_lost", error=str(error), hint=error.hint)
            self._control_lost = True
        else:
            self._log.warning("control_restarted")
            self._control_lost = False

    async def _health(self) -> Health | None:
        """The store's health; None while the disk makes it wait, which must not hold up anything here."""
        try:
            async with asyncio.timeout(_EVERY.total_seconds()):
                return await self._store.health()
        except (TimeoutError, GatedError):
            return None

    def _tell_of_store(self, health: Health | None) -> None:
        """Alarms about the disk and the files on it; a mirror that was begun anew is downloaded at once."""
        failing = health is None or health.disk_fails
        why = {"why": health.unwritable} if health is not None and health.unwritable else {}
        self._link.alarm_if(failing, "disk_failing", hint=_DISK_FAILING, **why)
        salvaged = self._store.salvaged
        if salvaged is not None:
            self._link.alarm_if(True, "journal_damaged", what_is_left=salvaged.describe())
        if self._store.mirrors_renewed > self._mirrors_renewed:
            self._mirrors_renewed = self._store.mirrors_renewed
            self._link.alarm("mirror_damaged", hint="All tickets are downloaded again.")
            self._run_soon("full")

    def _resting(self, health: Health | None) -> Outcome:
        if health is None or health.disk_fails:
            return Outcome.DISK_FAILING
        if not health.complete:
            return Outcome.NOT_READY
        return Outcome.OFFLINE if self._link.trouble is not None else Outcome.READY

    # What happens

    def _happened(self, lane: LaneName, what: str, detail: Mapping[str, object]) -> None:
        self._watchers.publish({"lane": lane, "what": what, "at": time.monotonic(), **detail})
        if what == "scan" and self._upload_timer is None and not self._failures.get("upload"):
            loop = asyncio.get_running_loop()
            self._upload_timer = loop.call_later(_UPLOAD_AFTER, self._upload_soon)

    def _upload_soon(self) -> None:
        self._upload_timer = None
        if not self._stopping.is_set():
            self._jobs.run_now("upload")

    def _alarm_if(self, on: bool, what: str, **detail: object) -> None:
        """For what is made before the link is."""
        self._link.alarm_if(on, what, **detail)

    def _emergency_came(self, came: Came) -> None:
        self._watchers.publish(
            {"lane": "", "what": "emergency", "came": came, "edge": self._emergency.state.since}
        )
        self._log.warning("emergency", came=came)
        for lane in self._lanes.values():
            if came is Came.BEGAN:
                lane.feed(EmergencyBegan())
            elif came is not Came.LATCHED:
                lane.feed(EmergencyEnded())
        self._latch.came(came)


def _is_ours(error: BaseException) -> bool:
    """Whether an error has come through code of gated."""
    return any(
        frame.f_globals.get("__name__", "").startswith("gated.") for frame, _ in walk_tb(error.__traceback__)
    )
