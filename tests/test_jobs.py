"""Jobs run at once, again, and whatever the wall clock does, on the real APScheduler."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any, ClassVar

import apscheduler.schedulers.base
import pytest
import structlog
from structlog.testing import LogCapture

from gated import jobs as jobs_module
from gated.jobs import Jobs
from tests.virtual_time import loop, run

TEN_SECONDS = timedelta(seconds=10)
HOUR = timedelta(hours=1)


class Wall(datetime):
    """What APScheduler reads for ``datetime``, on a wall clock that can be set."""

    ahead: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        """As the documentation of ``datetime.now`` says it is made, from the wall's time."""
        assert tz is not None
        wall = datetime(2026, 6, 12, tzinfo=UTC) + timedelta(seconds=loop().time()) + cls.ahead
        return tz.fromutc(wall.replace(tzinfo=tz))


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> type[Wall]:
    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Wall)
    monkeypatch.setattr(Wall, "ahead", timedelta())
    return Wall


@pytest.fixture(autouse=True)
def said() -> Iterator[LogCapture]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture
    structlog.reset_defaults()


class Work:
    """A job's work: remembers when it ran, in seconds since it was made."""

    def __init__(self, lasts: float = 0.0, raises: BaseException | None = None) -> None:
        self.lasts = lasts
        self.raises = raises
        self.began: list[float] = []
        self.ended: list[float] = []
        self._since = loop().time()

    async def run(self) -> None:
        self.began.append(loop().time() - self._since)
        try:
            await asyncio.sleep(self.lasts)
        finally:
            self.ended.append(loop().time() - self._since)
        if self.raises is not None:
            raise self.raises


def started(**jobs: tuple[Work, Callable[[], timedelta]]) -> Jobs:
    made = Jobs()
    for name, (work, every) in jobs.items():
        made.add(name, work.run, every)
    made.start()
    return made


def one(scenario: Callable[[Jobs, Work], Awaitable[None]], *, lasts: float = 0.0) -> Work:
    """Plays a scenario with one job that runs every ten seconds; returns what it did."""

    async def play() -> Work:
        work = Work(lasts)
        jobs = started(work=(work, lambda: TEN_SECONDS))
        await scenario(jobs, work)
        await jobs.close()
        return work

    return run(play())


def pauses(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_job_runs_at_once_and_again_after_its_pause_or_a_tenth_more() -> None:
    async def scenario(_: Jobs, __: Work) -> None:
        await asyncio.sleep(300)

    work = one(scenario)
    assert work.began[0] < 0.01
    assert len(work.began) > 25
    assert all(9.99 <= pause <= 11.01 for pause in pauses(work.began))
    assert len({round(pause, 3) for pause in pauses(work.began)}) > 1


def test_the_pause_is_asked_for_after_each_run() -> None:
    async def play() -> list[float]:
        wanted = iter([1, 5, 60, 1000])
        work = Work()
        jobs = started(work=(work, lambda: timedelta(seconds=next(wanted))))
        await asyncio.sleep(200)
        await jobs.close()
        return pauses(work.began)

    first, second, third = run(play())
    assert 1 <= first <= 1.11
    assert 5 <= second <= 5.51
    assert 60 <= third <= 66.01


@pytest.mark.parametrize(
    "step",
    [timedelta(hours=-3), timedelta(days=-365 * 30), timedelta(hours=3), timedelta(days=365 * 56)],
    ids=["3 hours back", "30 years back", "3 hours forward", "56 years forward"],
)
def test_a_step_of_the_wall_clock_changes_nothing(step: timedelta, wall: type[Wall]) -> None:
    async def play() -> tuple[list[float], list[float]]:
        often, rarely = Work(), Work()
        jobs = started(often=(often, lambda: TEN_SECONDS), rarely=(rarely, lambda: HOUR))
        await asyncio.sleep(25)
        wall.ahead = step
        await asyncio.sleep(3575)
        await jobs.close()
        return often.began, rarely.began

    often, rarely = run(play())
    assert all(9.99 <= pause <= 11.01 for pause in pauses(often))
    assert often[-1] > 3580
    assert len(rarely) <= 2


def test_a_clock_that_jumps_to_and_fro_floods_nothing(wall: type[Wall]) -> None:
    async def scenario(_: Jobs, __: Work) -> None:
        for number in range(100):
            wall.ahead = timedelta(days=(-1) ** number * number)
            await asyncio.sleep(1)

    assert 9 <= len(one(scenario).began) <= 11


def test_a_run_that_came_due_while_the_loop_was_blocked_is_made_up_for_at_once() -> None:
    async def scenario(_: Jobs, __: Work) -> None:
        await asyncio.sleep(5)
        loop().block(500)
        await asyncio.sleep(1)

    work = one(scenario)
    assert len(work.began) == 2
    assert 505 <= work.began[1] < 505.1


def test_a_job_told_to_run_now_runs_now_and_its_pause_begins_anew() -> None:
    async def scenario(jobs: Jobs, _: Work) -> None:
        await asyncio.sleep(5)
        jobs.run_now("work")
        jobs.run_now("work")
        await asyncio.sleep(12)

    work = one(scenario)
    assert [round(at) for at in work.began[:2]] == [0, 5]
    assert len(work.began) == 3
    assert 14.99 <= work.began[2] <= 16.01


def test_a_job_told_to_run_now_while_it_runs_runs_once_more_afterwards() -> None:
    async def scenario(jobs: Jobs, _: Work) -> None:
        await asyncio.sleep(1)
        for _ in range(3):
            jobs.run_now("work")
        await asyncio.sleep(8)

    work = one(scenario, lasts=3)
    assert [round(at) for at in work.began] == [0, 3]
    assert [round(at) for at in work.ended] == [3, 6]


def test_a_job_that_takes_longer_than_its_pause_never_overlaps_itself() -> None:
    async def scenario(jobs: Jobs, _: Work) -> None:
        for _ in range(10):
            await asyncio.sleep(30)
            jobs.run_now("work")

    work = one(scenario, lasts=45)
    assert len(work.began) > 4
    assert all(begun >= ended for ended, begun in zip(work.ended, work.began[1:], strict=False))


def test_a_long_job_holds_up_no_other() -> None:
    async def play() -> Work:
        long, short = Work(lasts=1000), Work()
        jobs = started(long=(long, lambda: TEN_SECONDS), short=(short, lambda: TEN_SECONDS))
        await asyncio.sleep(60)
        await jobs.close()
        return short

    assert len(run(play()).began) >= 5


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()], ids=["bug", "cancelled"])
def test_a_job_that_raises_is_logged_and_runs_again(error: BaseException, said: LogCapture) -> None:
    async def play() -> list[float]:
        work = Work(raises=error)
        jobs = started(work=(work, lambda: TEN_SECONDS))
        await asyncio.sleep(150)
        await jobs.close()
        return work.began

    assert [round(at) for at in run(play())] == [0, 60, 120]
    assert [(entry["event"], entry["job"]) for entry in said.entries] == [("job_failed", "work")] * 3


def test_a_job_whose_pause_can_not_be_told_runs_again() -> None:
    def broken() -> timedelta:
        raise KeyError("nothing here")

    async def play() -> list[float]:
        work = Work()
        jobs = started(work=(work, broken))
        await asyncio.sleep(70)
        await jobs.close()
        return work.began

    assert [round(at) for at in run(play())] == [0, 60]


def test_a_run_that_hangs_is_ended_and_the_job_runs_again(said: LogCapture) -> None:
    longest = jobs_module.LONGEST.total_seconds()

    async def scenario(_: Jobs, __: Work) -> None:
        await asyncio.sleep(longest + 100)

    work = one(scenario, lasts=10 * longest)
    assert [round(at) for at in work.began] == [0, round(longest + 60)]
    assert [entry["event"] for entry in said.entries] == ["job_failed"]


def test_jobs_that_run_and_wait_as_they_should_are_not_dead() -> None:
    async def play() -> set[str]:
        jobs = started(
            often=(Work(), lambda: TEN_SECONDS),
            rarely=(Work(), lambda: HOUR),
            long=(Work(lasts=3000), lambda: TEN_SECONDS),
            failing=(Work(raises=ValueError("a bug")), lambda: TEN_SECONDS),
        )
        dead: set[str] = set()
        for _ in range(100):
            await asyncio.sleep(91)
            dead |= set(jobs.dead)
        await jobs.close()
        return dead

    assert run(play()) == set()


def test_jobs_whose_scheduler_has_fallen_silent_are_dead() -> None:
    async def play() -> list[tuple[list[str], list[str]]]:
        jobs = started(often=(Work(), lambda: TEN_SECONDS), rarely=(Work(), lambda: HOUR))
        await asyncio.sleep(5)
        jobs._scheduler.pause()
        dead = []
        for seconds in (100, 300, 4000):
            await asyncio.sleep(seconds)
            dead.append(jobs.dead)
        await jobs.close()
        return dead

    assert run(play()) == [[], ["often"], ["often", "rarely"]]


def test_closing_cancels_what_runs_and_what_waits(said: LogCapture) -> None:
    async def play() -> tuple[Work, Work]:
        running, waiting = Work(lasts=1000), Work()
        jobs = started(running=(running, lambda: TEN_SECONDS), waiting=(waiting, lambda: TEN_SECONDS))
        await asyncio.sleep(1)
        await jobs.close()
        assert running.ended == [1.0]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(1000)
        return running, waiting

    running, waiting = run(play())
    assert len(running.began) == len(waiting.began) == 1
    assert said.entries == []
