"""Jobs on APScheduler: each runs, and is then scheduled once more.

- A job is either on the scheduler, with one next date, or running: it can't overlap itself, nor pile up.
- The scheduler lives in monotonic time. APScheduler compares dates with ``datetime.now`` of its time zone and
  sleeps for the difference, so a wall clock set back would silence it for hours, and one set forward would
  make everything due at once (apscheduler #351, #1066). Its time zone here has a clock of its own.
- A run is never skipped for being late, and none that fails is the last one; one that hangs is ended.
"""

import asyncio
import random
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from gated import log

# Each pause is up to so much longer, so that the gates of a venue don't ask all at once. Never shorter: a
# server may have asked for it.
_JITTER = 0.1
# After a run that failed in a way it did not foresee, whatever its pause.
_AFTER_FAILURE = timedelta(seconds=60)
# So long a run may take. Each call to the API has an end of its own, and a full download that is cut short
# goes on at its page: this is for what nobody foresaw.
LONGEST = timedelta(hours=1)
# So much later than it should a job may begin or end. Far above what a loop is ever held up: systemd's
# watchdog ends gated after 15 s.
LATE = timedelta(minutes=5)


@dataclass(slots=True)
class _Job:
    run: Callable[[], Awaitable[None]]
    pause: Callable[[], timedelta]
    task: "asyncio.Task[None] | None" = None
    again: bool = False
    by: float = 0.0
    """The loop's time by which it has begun, or ended, if it is not dead."""


class Jobs:
    """Runs coroutines again and again, on the loop it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log.get("jobs")
        self._jobs: dict[str, _Job] = {}
        self._zone = _MonotonicTime(self._loop)
        # The "debug" executor calls what is due on the spot: ours only starts a task.
        self._scheduler = AsyncIOScheduler(timezone=self._zone, executors={"default": DebugExecutor()})

    def add(self, name: str, run: Callable[[], Awaitable[None]], every: Callable[[], timedelta]) -> None:
        """Adds a job that first runs at once; ``every`` is asked after each run how long to wait."""
        self._jobs[name] = _Job(run, every)

    def start(self) -> None:
        """Runs every job now, and from then on."""
        self._scheduler.start()
        for name in self._jobs:
            self._schedule(name, timedelta())

    def run_now(self, name: str) -> None:
        """Runs a job as soon as possible: once more after its end, if it is running."""
        job = self._jobs[name]
        if job.task is not None:
            job.again = True
        else:
            self._schedule(name, timedelta())

    @property
    def dead(self) -> list[str]:
        """Jobs that should have begun or ended long ago."""
        now = self._loop.time()
        return [name for name, job in self._jobs.items() if now > job.by]

    async def close(self) -> None:
        """Ends all jobs; one that is running is cancelled."""
        self._scheduler.shutdown(wait=False)
        await asyncio.sleep(0)  # the scheduler shuts down on the loop's next turn
        running = [job.task for job in self._jobs.values() if job.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _schedule(self, name: str, after: timedelta) -> None:
        self._jobs[name].by = self._loop.time() + (after + LATE).total_seconds()
        self._scheduler.add_job(
            self._begin,
            DateTrigger(self._zone.now() + after, self._zone),
            args=[name],
            id=name,
            replace_existing=True,
            misfire_grace_time=None,
        )

    def _begin(self, name: str) -> None:
        job = self._jobs[name]
        job.by = self._loop.time() + (LONGEST + LATE).total_seconds()
        job.task = self._loop.create_task(self._run(name, job), name=f"job {name}")

    async def _run(self, name: str, job: _Job) -> None:
        pause = _AFTER_FAILURE
        try:
            async with asyncio.timeout(LONGEST.total_seconds()):
                await job.run()
            pause = job.pause() * random.uniform(1, 1 + _JITTER)  # noqa: S311 - no secret
        except asyncio.CancelledError:
            if job.task is not None and job.task.cancelling():
                raise  # by us; else something that the job waited for was cancelled
            self._log.error("job_failed", job=name, exc_info=True)
        except Exception:  # noqa: BLE001 - supervisor: the next run may do better
            self._log.error("job_failed", job=name, exc_info=True)
        job.task = None
        self._schedule(name, timedelta() if job.again else pause)
        job.again = False


class _MonotonicTime(tzinfo):
    """A time zone whose clock is the loop's: seconds of monotonic time, told as a date.

    ``datetime.now(zone)`` is documented to be what ``zone.fromutc`` makes of the wall's time. Nothing is made
    of it here.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        """The loop's time."""
        return datetime(1970, 1, 1, tzinfo=self) + timedelta(seconds=self._loop.time())

    def fromutc(self, _: datetime) -> datetime:
        return self.now()

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, _: datetime | None) -> str:
        return "monotonic"
