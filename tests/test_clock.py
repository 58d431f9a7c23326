import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar

import pytest

import gated
from gated.clock import SystemClock, new_scan_id
from gated.core.scan import TimeTrust

BOOT = "1f0c7d4e-0000-4000-8000-000000000001"


class Kernel:
    """Says whether a time server steers it, and counts how often it was asked."""

    def __init__(self, synchronised: bool) -> None:
        self.synchronised = synchronised
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.synchronised


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without a real-time clock."""
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text(f"{BOOT}\n")
    return tmp_path


def fit_rtc(root: Path, *, set_time: str = "1", shows: float | None = None, name: str = "rtc0") -> None:
    """Gives the machine a real-time clock; ``shows`` is its time, the machine's own by default."""
    rtc = root / "sys/class/rtc" / name
    rtc.mkdir(parents=True)
    (rtc / "hctosys").write_text(f"{set_time}\n")
    (rtc / "since_epoch").write_text(f"{int(time.time() if shows is None else shows)}\n")


def clock(root: Path, synchronised: bool = False) -> SystemClock:
    return SystemClock(root=root, kernel_synchronised=Kernel(synchronised))


def off(moment_wall: datetime, by: timedelta = timedelta()) -> float:
    """Seconds that a wall time is away from this machine's, but for ``by``."""
    return abs((moment_wall - by - datetime.now(UTC)).total_seconds())


def test_a_moment_is_this_machines_time_monotonic_and_boot(root):
    before = time.monotonic()
    now = clock(root, synchronised=True).now()
    assert before <= now.monotonic <= time.monotonic()
    assert off(now.wall) < 1
    assert now.wall.tzinfo is UTC
    assert now.boot == BOOT


def test_time_is_synchronised_while_the_kernel_says_so(root):
    fit_rtc(root)
    assert clock(root, synchronised=True).now().trust is TimeTrust.SYNCHRONISED


def test_time_is_unknown_where_nothing_vouches_for_it(root):
    assert clock(root).now().trust is TimeTrust.UNKNOWN


@pytest.mark.parametrize(
    ("name", "rtc", "trust"),
    [
        ("it set the system time", {}, TimeTrust.ESTIMATED),
        ("it did not set the system time", {"set_time": "0"}, TimeTrust.UNKNOWN),
        ("it has no battery and starts in 1970", {"shows": 12.0}, TimeTrust.UNKNOWN),
        ("it shows what is no time", {"shows": 1e18}, TimeTrust.UNKNOWN),
    ],
)
def test_a_real_time_clock_is_believed_if_it_set_the_time_and_works(root, name, rtc, trust):
    fit_rtc(root, **rtc)
    assert clock(root).now().trust is trust


def test_one_working_real_time_clock_of_two_is_enough(root):
    fit_rtc(root, name="rtc0", shows=0.0)
    fit_rtc(root, name="rtc1")
    assert clock(root).now().trust is TimeTrust.ESTIMATED


def test_a_real_time_clock_that_can_not_be_read_is_none(root):
    fit_rtc(root)
    (root / "sys/class/rtc/rtc0/since_epoch").unlink()
    assert clock(root).now().trust is TimeTrust.UNKNOWN


@pytest.mark.parametrize("hours", [-30, 5, 24 * 365])
def test_the_apis_time_is_taken_where_the_machines_is_not_known(root, hours):
    ours = clock(root)
    assert ours.now().trust is TimeTrust.UNKNOWN
    by = timedelta(hours=hours)
    ours.learn(datetime.now(UTC) + by, time.monotonic())
    now = ours.now()
    assert now.trust is TimeTrust.ESTIMATED
    assert off(now.wall, by) < 1


def test_what_was_learnt_goes_on_with_the_monotonic_clock(root):
    ours = clock(root)
    ours.learn(datetime.now(UTC), time.monotonic() - 3600)
    assert off(ours.now().wall, timedelta(hours=1)) < 1


def test_a_second_of_network_does_not_move_the_time(root):
    ours = clock(root)
    ours.learn(datetime.now(UTC) - timedelta(seconds=1.5), time.monotonic())
    assert off(ours.now().wall) < 1


def test_the_apis_time_has_no_say_while_the_kernel_is_synchronised(root):
    ours = clock(root, synchronised=True)
    ours.learn(datetime.now(UTC) + timedelta(hours=5), time.monotonic())
    now = ours.now()
    assert now.trust is TimeTrust.SYNCHRONISED
    assert off(now.wall) < 1


class Wall(datetime):
    """The machine's wall clock, and so much ahead."""

    ahead: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + cls.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[Wall]:
    monkeypatch.setattr("gated.clock.datetime", Wall)
    monkeypatch.setattr(Wall, "ahead", timedelta())
    return Wall


STEPS = [timedelta(hours=-6), timedelta(hours=6), timedelta(days=-365 * 56), timedelta(days=365 * 50)]


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_set_by_hand_changes_no_time_that_was_synchronised_before(root, wall, step):
    kernel = Kernel(synchronised=True)
    ours = SystemClock(root=root, kernel_synchronised=kernel)
    assert ours.now().trust is TimeTrust.SYNCHRONISED
    kernel.synchronised = False  # as the kernel does itself when it is set
    wall.ahead = step
    now = ours.now()  # the very next scan
    assert now.trust is TimeTrust.ESTIMATED
    assert off(now.wall) < 1


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_a_time_server_has_stepped_is_believed_at_once(root, wall, step):
    kernel = Kernel(synchronised=False)
    wall.ahead = step  # wrong at boot
    ours = SystemClock(root=root, kernel_synchronised=kernel)
    assert ours.now().trust is TimeTrust.UNKNOWN
    kernel.synchronised = True
    wall.ahead = timedelta()
    now = ours.now()
    assert now.trust is TimeTrust.SYNCHRONISED
    assert off(now.wall) < 1


@pytest.mark.parametrize("step", STEPS)
def test_a_step_back_and_forth_within_seconds_moves_no_time_that_the_api_has_told(root, wall, step):
    ours = clock(root)
    ours.learn(datetime.now(UTC), time.monotonic())
    for wall.ahead in (step, timedelta(), -step / 2, step):
        now = ours.now()
        assert now.trust is TimeTrust.ESTIMATED
        assert off(now.wall) < 1


@pytest.mark.parametrize("step", STEPS)
def test_a_real_time_clock_does_not_vouch_for_a_time_set_otherwise_afterwards(root, wall, step):
    fit_rtc(root)
    ours = clock(root)
    assert ours.now().trust is TimeTrust.ESTIMATED
    wall.ahead = step
    assert ours.now().trust is TimeTrust.UNKNOWN
    wall.ahead = timedelta()
    assert ours.now().trust is TimeTrust.ESTIMATED


def test_only_the_clock_reads_the_machines_wall_time():
    read = re.compile(r"datetime\.(now|today|utcnow)\(|time\.(time|time_ns|localtime|gmtime)\(")
    package = Path(gated.__file__).parent
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if read.search(path.read_text()) and "simulator" not in path.parts
    }
    assert readers == {
        "clock.py",
        "commissioning/site.py",  # the date at the head of a report, printed by a command
        "jobs.py",  # in words: what APScheduler would do
        "store/salvage.py",  # in the name of a file
    }


def test_the_kernel_is_not_asked_at_each_scan(root):
    kernel = Kernel(synchronised=False)
    ours = SystemClock(root=root, kernel_synchronised=kernel)
    for _ in range(10):
        ours.now()
    assert kernel.asked == 1
    kernel.synchronised = True
    ours.learn(datetime.now(UTC), time.monotonic())
    assert ours.now().trust is TimeTrust.SYNCHRONISED


def test_a_machine_without_a_boot_id_gets_one_a_start(tmp_path):
    first, second = clock(tmp_path), clock(tmp_path)
    assert first.now().boot == first.now().boot != second.now().boot


def test_the_real_kernel_can_be_asked():
    now = SystemClock().now()
    assert now.trust in TimeTrust
    assert now.boot


def test_scan_ids_sort_by_their_times_and_never_repeat(root):
    at = clock(root).now()
    later = replace(at, wall=at.wall + timedelta(milliseconds=1))
    ids = [new_scan_id(each) for each in (at, later) for _ in range(50)]
    assert len(set(ids)) == 100
    assert max(ids[:50]) < min(ids[50:])
