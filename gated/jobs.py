"""Jobs on APScheduler: each runs, and is then scheduled once more.

APScheduler counts wall time, so two things are ours: no job has a rhythm of its own that a step of the clock
could turn into a thousand missed runs (each has one next date), and a watch on the clock schedules every job
anew when it steps. A run is never skipped for being late, and never overlaps itself.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from gated import log

# How often wall and monotonic clock are compared, and how far they may part, in seconds.
_WATCH_EVERY = 1.0
_STEP = 2.0
# Each pause is this much longer or shorter, so that the gates of a venue don't ask all at once.
_JITTER = 0.1


@dataclass(slots=True)
class _Job:
    run: Callable[[], Awaitable[None]]
    every: Callable[[], timedelta]
    task: "asyncio.Task[None] | None" = None
    again: bool = False


class Jobs:
    """Runs coroutines again and again, from the running loop."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._log = log.get("jobs")
        self._jobs: dict[str, _Job] = {}
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._apart = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def add(self, name: str, run: Callable[[], Awaitable[None]], every: Callable[[], timedelta]) -> None:
        """Adds a job that first runs at once; ``every`` is asked after each run how long to wait."""
        self._jobs[name] = _Job(run, every)

    def start(self) -> None:
        """Runs every job now, and from then on."""
        self._scheduler.start()
        self._apart = self._wall() - time.monotonic()
        self._watch_clock()
        for name in self._jobs:
            self._schedule(name, timedelta())

    def run_now(self, name: str) -> None:
        """Runs a job as soon as possible: once more after its end, if it is running."""
        job = self._jobs[name]
        if job.task is not None:
            job.again = True
        else:
            self._schedule(name, timedelta())

    async def close(self) -> None:
        """Ends all jobs; one that is running is cancelled."""
        if self._watch is not None:
            self._watch.cancel()
        self._scheduler.shutdown(wait=False)
        running = [job.task for job in self._jobs.values() if job.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _schedule(self, name: str, after: timedelta) -> None:
        self._scheduler.add_job(
            self._begin,
            DateTrigger(datetime.fromtimestamp(self._wall(), UTC) + after),
            args=[name],
            id=name,
            replace_existing=True,
            misfire_grace_time=None,
        )

    async def _begin(self, name: str) -> None:
        job = self._jobs[name]
        if job.task is None:
            job.task = asyncio.create_task(self._run(name, job), name=f"job {name}")

    async def _run(self, name: str, job: _Job) -> None:
        try:
            await job.run()
        except Exception:  # noqa: BLE001 - supervisor: the next run may do better
            self._log.error("job_failed", job=name, exc_info=True)
        job.task = None
        pause = timedelta() if job.again else job.every() * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
        job.again = False
        self._schedule(name, pause)

    def _watch_clock(self) -> None:
        apart = self._wall() - time.monotonic()
        if abs(apart - self._apart) > _STEP:
            self._log.warning("clock_stepped", seconds=round(apart - self._apart, 1))
            self._apart = apart
            for name, job in self._jobs.items():
                if job.task is None:
                    self._schedule(name, timedelta())
        self._watch = asyncio.get_running_loop().call_later(_WATCH_EVERY, self._watch_clock)
