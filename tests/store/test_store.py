import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import gated.store
from gated.core.outbox import Lost, Row
from gated.core.scan import Direction
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, admit, deny
from gated.errors import StoreError
from gated.store import Ask, Decided, DeskRules, Double, Passage, Reply, Store, files, front, salvage, writer
from gated.store.desk import Desk
from gated.store.journal import Journal
from gated.store.mirror import Mirror, MirrorDamaged
from gated.store.outbox import Outbox
from gated.store.pages import PAGE_BYTES
from tests.store.desks import ASK_ALL, LOCAL, moment, scan, ticket


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await opened(tmp_path)
    await load(store, ticket("T1"), ticket("T2"))
    yield store
    await store.close()


async def opened(folder: Path, rules: DeskRules | None = None) -> Store:
    store = Store(folder, rules or DeskRules())
    store.start()
    await store.bind("S1")
    return store


async def load(store: Store, *tickets: Ticket, run: int = 1) -> None:
    await store.put(tickets, asked=time.monotonic(), run=run)
    await store.remember(complete=1)


async def decide(store: Store, barcode: str = "T1", lane: str = "A") -> Decided:
    answer = await store.decide(scan(barcode, moment(time.monotonic()), lane=lane), LOCAL)
    assert isinstance(answer, Decided)
    return answer


async def upload(store: Store) -> tuple[Row, ...]:
    rows = await store.freeze(50, moment(time.monotonic()))
    await store.acknowledge(rows, time.monotonic())
    return rows


def reasons_on_disk(folder: Path) -> list[str]:
    """What another program finds in the journal, as it would after a power cut."""
    connection = sqlite3.connect(folder / "journal.db")
    rows = connection.execute("SELECT reason FROM scan ORDER BY seq").fetchall()
    connection.close()
    return [reason for (reason,) in rows]


class Gateway:
    """Holds up a method of the store's inside until it is opened; tells when somebody waits at it.

    Once it is open, a busy machine has all the time it needs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self._monkeypatch = monkeypatch
        self.reached = threading.Event()
        self._open = threading.Event()
        through: Callable[..., object] = getattr(owner, name)

        def held(*args: object, **named: object) -> object:
            self.reached.set()
            assert self._open.wait(5.0)
            return through(*args, **named)

        monkeypatch.setattr(owner, name, held)

    def open(self) -> None:
        self._monkeypatch.setattr(front, "PATIENCE_S", 60.0)
        self._open.set()

    async def wait(self) -> None:
        await asyncio.to_thread(self.reached.wait, 5.0)


# ---- the promise of a verdict


async def test_a_verdict_is_on_disk_before_anybody_hears_of_it(store, tmp_path):
    await decide(store)
    assert reasons_on_disk(tmp_path) == ["valid"]


async def test_two_lanes_that_read_one_ticket_while_a_commit_stalls_admit_one_guest(
    store, tmp_path, monkeypatch
):
    gateway = Gateway(monkeypatch, Journal, "write")
    first = asyncio.create_task(decide(store, lane="A"))
    second = asyncio.create_task(decide(store, lane="B"))
    await gateway.wait()
    await asyncio.wait({first, second}, timeout=0.02)
    assert (first.done(), second.done(), reasons_on_disk(tmp_path)) == (False, False, [])
    gateway.open()
    verdicts = [(await task).verdict for task in (first, second)]
    assert [verdict.reason for verdict in verdicts] == [Reason.VALID, Reason.ALREADY_SCANNED]
    assert verdicts[1].lane == "A"


async def test_a_scan_that_nobody_waits_for_any_more_is_written_all_the_same(store, tmp_path, monkeypatch):
    gateway = Gateway(monkeypatch, Journal, "write")
    task = asyncio.create_task(decide(store))
    await gateway.wait()
    task.cancel()
    gateway.open()
    await store.health()
    assert reasons_on_disk(tmp_path) == ["valid"]


# ---- a disk that hangs


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the disk for longer than this."""
    monkeypatch.setattr(front, "PATIENCE_S", 0.02)


RULES = (DeskRules(), DeskRules(admit_undurable=False))


@pytest.mark.usefixtures("impatient")
async def test_while_a_commit_hangs_guests_are_admitted_once_and_nothing_is_lost(
    store, tmp_path, monkeypatch
):
    await store.state()
    gateway = Gateway(monkeypatch, Journal, "write")
    scans = [await decide(store, barcode, lane) for barcode, lane in (("T1", "A"), ("T1", "B"), ("T2", "A"))]
    reasons = [decided.verdict.reason for decided in scans]
    assert reasons == [Reason.VALID, Reason.ALREADY_SCANNED, Reason.VALID]
    assert [decided.seq for decided in scans] == [None, None, None]
    assert (await store.state_for_people()).complete  # people ask most when nothing goes on
    gateway.open()
    assert (await store.health()).undurable == 0
    assert reasons_on_disk(tmp_path) == ["valid", "already_scanned", "valid"]
    assert (await decide(store, "T2")).verdict.reason is Reason.ALREADY_SCANNED


@pytest.mark.usefixtures("impatient")
async def test_a_gate_told_to_deny_spends_no_ticket_of_a_guest_whom_a_hanging_commit_kept_out(
    tmp_path, monkeypatch
):
    store = await opened(tmp_path, DeskRules(admit_undurable=False))
    await load(store, ticket("T1"), ticket("T2"))
    gateway = Gateway(monkeypatch, Journal, "write")
    reasons = [(await decide(store, barcode)).verdict.reason for barcode in ("T1", "T2")]
    assert reasons == [Reason.FAULT, Reason.FAULT]
    gateway.open()
    await store.health()
    assert await upload(store) == ()
    assert [(await decide(store, barcode)).verdict.reason for barcode in ("T1", "T2")] == [Reason.VALID] * 2
    assert len(await upload(store)) == 2
    await store.close()


@pytest.mark.usefixtures("impatient")
async def test_a_scan_does_not_wait_for_a_download_that_hangs(store, monkeypatch):
    gateway = Gateway(monkeypatch, Mirror, "put")
    download = asyncio.ensure_future(load(store, ticket("T3")))
    await gateway.wait()
    assert [(await decide(store, barcode)).verdict.reason for barcode in ("T1", "T1")] == [
        Reason.VALID,
        Reason.ALREADY_SCANNED,
    ]
    gateway.open()
    await download
    assert (await decide(store)).verdict.reason is Reason.ALREADY_SCANNED


@pytest.mark.usefixtures("impatient")
async def test_where_even_reading_hangs_the_answer_is_an_error_and_what_comes_late_takes_nothing(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr(front, "GIVE_UP_S", 0.02)
    gateway = Gateway(monkeypatch, Mirror, "find")
    for _ in range(2):
        with pytest.raises(StoreError, match="does not answer"):
            await decide(store)
    with pytest.raises(StoreError):
        await store.decide(scan("T2"), ASK_ALL)
    gateway.open()
    async with asyncio.timeout(5):
        while (await decide(store)).verdict.reason is not Reason.VALID:
            await store.health()
        while not isinstance(await store.decide(scan("T2"), ASK_ALL), Ask):
            await store.health()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("rules", RULES)
async def test_what_the_server_admitted_is_admitted_while_the_disk_hangs(tmp_path, monkeypatch, rules):
    store = await opened(tmp_path, rules)
    await load(store, ticket("T1"))
    ask = await store.decide(scan("T1", moment(time.monotonic())), ASK_ALL)
    assert isinstance(ask, Ask)
    gateway = Gateway(monkeypatch, Journal, "write")
    reply = Reply(admit(100, Reason.VALID), Origin.DIRECT, answered=time.monotonic())
    assert (await store.settle(ask, reply)).verdict.reason is Reason.VALID
    gateway.open()
    await store.health()
    assert (await decide(store)).verdict.reason is Reason.ALREADY_SCANNED
    await store.close()


@pytest.mark.usefixtures("impatient")
async def test_a_stop_does_not_wait_for_a_disk_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(gated.store, "_CLOSE_S", 0.05)
    store = await opened(tmp_path)
    gateway = Gateway(monkeypatch, Journal, "write")
    await decide(store)
    async with asyncio.timeout(2):
        await store.close()
    gateway.open()


# ---- one thread for all


async def test_a_scan_goes_before_the_pieces_of_a_download(store, monkeypatch):
    done: list[str] = []
    gateway = Gateway(monkeypatch, Mirror, "put")
    download = asyncio.create_task(store.put([ticket("T3")], asked=time.monotonic(), run=1))
    await gateway.wait()
    waiting = [
        asyncio.create_task(store.count()),
        asyncio.create_task(store.state()),
        asyncio.create_task(decide(store)),
    ]
    for name, task in zip(("count", "state", "scan"), waiting, strict=True):
        task.add_done_callback(lambda _, name=name: done.append(name))
    await asyncio.sleep(0)
    gateway.open()
    await asyncio.gather(download, *waiting)
    assert done[0] == "scan"


async def test_a_page_is_written_in_one_piece_while_no_scan_comes(store, monkeypatch):
    pieces = pieces_of_a_page(monkeypatch)
    await load(store, *(ticket(f"N{number}") for number in range(250)))
    assert pieces == [250]
    assert await store.count() == 252


async def test_a_scan_that_comes_while_a_page_is_written_waits_for_a_few_rows_alone(store, monkeypatch):
    done = told_when_done(monkeypatch, (Mirror, "_write"), (Desk, "decide"), (Mirror, "put"))
    gateway, download, scan = await scan_in_the_midst_of_a_page(store, monkeypatch)
    gateway.open()
    assert (await scan).verdict.admitted
    await download
    assert done == ["_write", "decide", "_write", "_write", "put"]
    assert await store.count() == 77


async def test_a_page_of_a_mirror_in_memory_ends_where_a_scan_waits(store, monkeypatch):
    monkeypatch.setattr(store._files, "mirror_in_memory", True)
    pieces = pieces_of_a_page(monkeypatch)
    gateway, download, scan = await scan_in_the_midst_of_a_page(store, monkeypatch)
    gateway.open()
    assert (await scan).verdict.admitted
    await download
    assert pieces == [25, 50]


async def test_a_scan_in_the_midst_of_a_page_that_finds_the_mirror_damaged_is_decided_by_a_fresh_one(
    store, monkeypatch
):
    gateway, download, scan = await scan_in_the_midst_of_a_page(store, monkeypatch)
    find = Mirror.find

    def finds_in_a_fresh_one(mirror: Mirror, *asked: Any) -> Any:
        if not store.mirrors_renewed:
            raise MirrorDamaged("as planned")
        return find(mirror, *asked)

    monkeypatch.setattr(Mirror, "find", finds_in_a_fresh_one)
    gateway.open()
    assert (await scan).verdict.reason is Reason.NOT_READY
    await download
    assert store.mirrors_renewed == 1
    assert await store.count() == 50  # what came before went with the damaged one


async def test_a_page_that_takes_long_is_not_taken_for_a_disk_that_hangs(store, monkeypatch):
    monkeypatch.setattr(writer, "_LONG_S", -1.0)
    pieces = pieces_of_a_page(monkeypatch)
    await load(store, *(ticket(f"N{number}") for number in range(60)))
    assert pieces == [25, 25, 10]


async def scan_in_the_midst_of_a_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> tuple[Gateway, asyncio.Task[None], asyncio.Task[Decided]]:
    """A download of 75 tickets whose first rows are held up, and a scan that was handed in meanwhile."""
    gateway = Gateway(monkeypatch, Mirror, "_write")
    download = asyncio.create_task(load(store, *(ticket(f"N{number}") for number in range(75))))
    await gateway.wait()
    scan = asyncio.create_task(decide(store))
    await asyncio.sleep(0)
    return gateway, download, scan


def told_when_done(monkeypatch: pytest.MonkeyPatch, *methods: tuple[type, str]) -> list[str]:
    """Names of calls of these methods, in the order in which they ended."""
    done: list[str] = []

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **named: Any) -> Any:
            result = method(*args, **named)
            done.append(name)
            return result

        return watch

    for owner, name in methods:
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return done


def pieces_of_a_page(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each piece of a download wrote, as they are written."""
    pieces: list[int] = []
    put = Mirror.put

    def counted(mirror: Mirror, tickets: Sequence[Ticket], **named: Any) -> int:
        pieces.append(put(mirror, tickets, **named))
        return pieces[-1]

    monkeypatch.setattr(Mirror, "put", counted)
    return pieces


async def test_a_download_tells_of_tickets_that_were_used_too_often_once_here(store):
    admitted = await decide(store)
    twice = ticket(remaining=-1, checked_in=2)
    told: list[Double] = []
    await store.put([ticket("T2"), twice], asked=time.monotonic(), run=0, tell=told.append)
    (double,) = told
    (here,) = double.here
    assert double.ticket.barcode_id == "T1"
    assert abs(here - admitted.scan.at.wall) < timedelta(milliseconds=1)
    await store.put([twice], asked=time.monotonic(), run=0, tell=told.append)
    assert told == [double]


async def test_a_ticket_used_too_often_is_told_of_even_if_the_rest_of_its_page_fails(store, monkeypatch):
    await decide(store)
    put, told = Mirror.put, list[Double]()

    def one_row(mirror: Mirror, tickets: Sequence[Ticket], **named: Any) -> int:
        if told:
            raise sqlite3.OperationalError("disk I/O error")
        return put(mirror, tickets[:1], **named)

    monkeypatch.setattr(Mirror, "put", one_row)
    page = [ticket(remaining=-1, checked_in=2), ticket("T2")]
    with pytest.raises(StoreError):
        await store.put(page, asked=time.monotonic(), run=0, tell=told.append)
    assert [double.ticket.barcode_id for double in told] == ["T1"]


async def test_a_lapse_is_noted_before_the_guests_next_scan(store, monkeypatch):
    admitted = await decide(store)
    assert admitted.seq is not None
    gateway = Gateway(monkeypatch, Mirror, "put")
    download = asyncio.create_task(store.put([ticket("T3")], asked=time.monotonic(), run=1))
    await gateway.wait()
    lapse = asyncio.create_task(store.set_passage(admitted.seq, Passage.NOT_TAKEN))
    again = asyncio.create_task(decide(store))
    await asyncio.sleep(0)
    gateway.open()
    await asyncio.gather(download, lapse)
    assert (await again).verdict.reason is Reason.REGRANT


async def test_a_ticket_in_question_is_busy_at_another_lane(store):
    ask = await store.decide(scan("T1", lane="A"), ASK_ALL)
    assert isinstance(ask, Ask)
    assert (await decide(store, lane="B")).verdict.reason is Reason.BUSY
    assert (await decide(store, "T2", lane="B")).verdict.reason is Reason.VALID
    settled = await store.settle(ask, Reply(admit(100, Reason.VALID), ask.origin, answered=time.monotonic()))
    assert settled.verdict.admitted
    assert (await decide(store, lane="B")).verdict.reason is Reason.ALREADY_SCANNED
    assert [row.barcode_id for row in await upload(store)] == ["T2"]


async def test_an_undecided_scan_spends_nothing(store, tmp_path):
    await store.write_undecided(scan("T1"), deny(None, Reason.UNDECIDED))
    assert (await decide(store)).verdict.reason is Reason.VALID
    assert reasons_on_disk(tmp_path) == ["undecided", "valid"]


async def test_a_closed_store_says_so(tmp_path):
    store = await opened(tmp_path)
    assert store.alive
    await store.close()
    assert not store.alive
    with pytest.raises(StoreError, match="closed"):
        await store.state()


async def test_a_database_that_does_not_answer_is_a_store_error(store, monkeypatch):
    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Mirror, "find", broken)
    with pytest.raises(StoreError, match="disk I/O error"):
        await decide(store)


# ---- a disk that fails


@pytest.mark.parametrize(("admit_undurable", "reason"), [(True, Reason.VALID), (False, Reason.FAULT)])
async def test_a_full_disk_is_answered_as_the_config_says(tmp_path, monkeypatch, admit_undurable, reason):
    store = await opened(tmp_path, DeskRules(admit_undurable=admit_undurable))
    await load(store, ticket())
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", full_disk)
        decided = await decide(store)
        assert (decided.verdict.reason, decided.seq) == (reason, None)
        assert (await store.health()).undurable == 1
        assert (await store.state()).undurable == 1
    assert await store.upkeep() == 0
    assert reasons_on_disk(tmp_path) == [reason]
    await store.close()


class Disk:
    """Is full until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        written_by = ((Journal, "write"), (Outbox, "recover"), (Outbox, "freeze"), (Outbox, "acknowledge"))
        self._methods = [(owner, name, getattr(owner, name)) for owner, name in written_by]
        for owner, name in written_by:
            monkeypatch.setattr(owner, name, full_disk)

    def mend(self) -> None:
        """There is room again."""
        for owner, name, method in self._methods:
            self._patch.setattr(owner, name, method)


async def opened_on_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Disk]:
    """A store on which two guests were admitted and one was not, all of them in memory alone."""
    store = await opened(folder)
    await load(store, ticket("T1"), ticket("T2"))
    disk = Disk(monkeypatch)
    for barcode in ("T1", "T2", "T1"):
        await decide(store, barcode)
    return store, disk


def sent(rows: tuple[Row, ...]) -> list[tuple[str, int]]:
    return [(row.barcode_id, row.status_code) for row in rows]


async def test_while_the_disk_fails_scans_go_up_from_memory_and_are_not_sent_again(tmp_path, monkeypatch):
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    assert sent(await upload(store)) == [("T1", 100), ("T2", 100)]
    assert sent(await upload(store)) == [("T1", 50)]
    assert await upload(store) == ()
    disk.mend()
    assert (await store.health()).undurable == 0
    assert reasons_on_disk(tmp_path) == ["valid", "valid", "already_scanned"]
    assert await upload(store) == ()
    assert (await store.state()).outbox.check_ins == 0
    await store.close()


async def test_a_stop_writes_all_that_waits_if_the_disk_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("gated.store.desk._WRITTEN_AT_ONCE", 1)
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    disk.mend()
    await store.close()
    assert reasons_on_disk(tmp_path) == ["valid", "valid", "already_scanned"]


async def test_what_did_not_arrive_from_memory_goes_again_as_it_was_from_memory_and_from_disk(
    tmp_path, monkeypatch
):
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    at = moment(time.monotonic())
    times = []
    for _ in range(2):
        rows = await store.freeze(50, at)
        times.append([row.checked_in_time for row in rows])
        await store.keep(rows)
    disk.mend()
    rows = await store.freeze(50, moment(time.monotonic() + 60))
    times.append([row.checked_in_time for row in rows])
    assert times[0] == times[1] == times[2]
    assert all(row.seq > 0 for row in rows)
    await store.close()


async def test_what_arrives_after_it_has_come_to_the_disk_is_not_sent_again(tmp_path, monkeypatch):
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    rows = await store.freeze(50, moment(time.monotonic()))
    disk.mend()
    assert (await store.health()).undurable == 0
    await store.acknowledge(rows, time.monotonic())
    assert sent(await upload(store)) == [("T1", 50)]
    await store.close()


async def test_what_was_lost_on_its_way_from_memory_waits_for_a_download_to_tell(tmp_path, monkeypatch):
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    rows = await store.freeze(50, moment(time.monotonic()))
    await store.lose(rows, time.monotonic())
    assert sent(await upload(store)) == [("T1", 50)]
    disk.mend()
    assert (await store.health()).undurable == 0
    assert await upload(store) == ()
    arrived = datetime.fromtimestamp(rows[0].checked_in_time, UTC)
    await load(store, ticket("T1", remaining=0, checked_in=1, last_checked_in=arrived), ticket("T2"))
    counts = await store.settle_lost(time.monotonic() + 1)
    assert (counts[Lost.RECORDED], counts[Lost.AGAIN]) == (1, 1)
    assert sent(await upload(store)) == [("T2", 100)]
    await store.close()


async def test_a_row_that_is_parked_in_memory_is_parked_on_disk(tmp_path, monkeypatch):
    store, disk = await opened_on_a_full_disk(tmp_path, monkeypatch)
    rows = await store.freeze(50, moment(time.monotonic()))
    await store.park(rows[:1], "refused")
    await store.acknowledge(rows[1:], time.monotonic())
    assert sent(await upload(store)) == [("T1", 50)]
    disk.mend()
    await store.health()
    assert [row.parked for row in await store.outbox_rows(0, 9)] == ["refused"]
    await store.close()


async def test_what_waits_in_memory_is_written_at_the_end(tmp_path, monkeypatch):
    store = await opened(tmp_path)
    await load(store, ticket())
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", full_disk)
        await decide(store)
    await store.close()
    assert reasons_on_disk(tmp_path) == ["valid"]


def full_disk(*_: object) -> int:
    raise sqlite3.OperationalError("database or disk is full")


# ---- downloads


async def test_the_state_of_downloads_is_remembered_over_a_restart(tmp_path):
    store = await opened(tmp_path)
    await store.remember(complete=1, mark=77, run=3, run_page=5, run_mark=70, run_total=900, tickets=10)
    await decide(store, "nobody's")
    await store.close()
    again = Store(tmp_path, DeskRules())
    again.start()
    state = await again.state()
    assert (state.service, state.complete, state.mark) == ("S1", True, 77)
    assert (state.run, state.run_page, state.run_mark, state.run_total) == (3, 5, 70, 900)
    assert (state.tickets, state.outbox.others) == (10, 1)
    await again.close()


async def test_what_a_full_download_did_not_see_is_unknown_until_it_comes_again(store):
    await load(store, ticket("T1"), run=2)
    assert await store.unseen(2) == 1
    await store.sweep(2)
    assert (await store.unseen(2), await store.count()) == (0, 1)
    assert (await decide(store, "T2")).verdict.reason is Reason.UNKNOWN
    await load(store, ticket("T2"), run=0)
    assert (await decide(store, "T2")).verdict.reason is Reason.VALID


async def test_another_service_starts_with_an_empty_mirror(store):
    await store.set_service_types(frozenset({"VIP"}), time.monotonic())
    await store.bind("S2")
    assert (await decide(store)).verdict.reason is Reason.NOT_READY
    await load(store, ticket("T2"))
    assert (await decide(store, "T2")).verdict.reason is Reason.VALID
    assert (await store.state()).service == "S2"


async def test_the_services_types_outlive_a_restart_without_a_network(tmp_path):
    store = await opened(tmp_path)
    await load(store, ticket(type_name="Child"))
    await store.set_service_types(frozenset({"VIP"}), time.monotonic() + 0.01)
    await store.close()
    again = Store(tmp_path, DeskRules())
    again.start()
    assert (await decide(again)).verdict.reason is Reason.NOT_ALLOWED
    await again.close()


async def test_a_mirror_that_is_damaged_while_it_is_used_is_begun_anew_with_the_scan_that_finds_it(tmp_path):
    store = await opened(tmp_path)
    await load(store, *(ticket(f"T{number}") for number in range(1000)))
    await store.upkeep()
    await store._writer.do(lambda: store._files.mirror.execute("PRAGMA shrink_memory").fetchall())
    size = (tmp_path / "mirror.db").stat().st_size
    with (tmp_path / "mirror.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    reasons = {(await decide(store, f"T{number}")).verdict.reason for number in range(1000)}
    assert Reason.NOT_READY in reasons
    assert store.mirrors_renewed == 1
    await load(store, ticket("new"))
    assert (await decide(store, "new")).verdict.reason is Reason.VALID
    assert (await store.state()).service == "S1"
    await store.close()


async def test_a_mirror_whose_damage_lies_deeper_is_begun_anew_at_the_start(tmp_path):
    await left_on(tmp_path)
    mirror = tmp_path / "mirror.db"
    connection = sqlite3.connect(mirror)
    [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ticket'").fetchone()
    connection.close()
    with mirror.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"no page!" * (PAGE_BYTES // 8))
    store = await opened(tmp_path)
    assert (store.mirrors_renewed, (await store.health()).complete) == (1, False)
    await load(store, ticket("T1"))
    assert (await decide(store, "T1")).verdict.reason is Reason.ALREADY_SCANNED
    await store.close()


async def test_a_mirror_that_is_damaged_is_begun_anew_and_the_journal_still_counts(tmp_path):
    store = await opened(tmp_path)
    await load(store, ticket())
    await decide(store)
    await store.close()
    (tmp_path / "mirror.db").write_bytes(b"\0no database" * 500)
    again = await opened(tmp_path)
    assert not (await again.state()).complete
    await load(again, ticket())
    assert (await decide(again)).verdict.reason is Reason.ALREADY_SCANNED
    await again.close()


# ---- a journal that is damaged while it is used


async def damaged_while_running(store: Store, folder: Path) -> None:
    """Forty guests are in; then the page with the scans of the first of them turns to noise."""
    await load(store, *(ticket(f"T{number}") for number in range(40)), ticket("N1"), ticket("N2"))
    for number in range(40):
        await decide(store, f"T{number}")
    await store.upkeep()
    await store._writer.do(lambda: store._files.journal.execute("PRAGMA shrink_memory").fetchall())
    journal = folder / "journal.db"
    raw = journal.read_bytes()
    connection = sqlite3.connect(journal)
    [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'scan'").fetchone()
    connection.close()
    page = raw[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    cell = int.from_bytes(page[12:14], "big")
    leaf = int.from_bytes(page[cell : cell + 4], "big")
    with journal.open("r+b") as file:
        file.seek((leaf - 1) * PAGE_BYTES)
        file.write(b"no page!" * (PAGE_BYTES // 8))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("rules", RULES)
async def test_while_a_damaged_journal_is_salvaged_scans_are_decided_by_what_can_be_read(
    tmp_path, monkeypatch, rules
):
    store = await opened(tmp_path, rules)
    await damaged_while_running(store, tmp_path)
    gateway = Gateway(monkeypatch, salvage, "_fill")
    finder = asyncio.create_task(decide(store, "T0"))
    await gateway.wait()
    reasons = [(await decide(store, each)).verdict.reason for each in ("N1", "N1", "T39")]
    entered = [Reason.VALID, Reason.ALREADY_SCANNED] if rules.admit_undurable else [Reason.FAULT] * 2
    assert reasons == [*entered, Reason.ALREADY_SCANNED]
    with pytest.raises(StoreError, match="malformed"):  # it may be in: nobody can tell
        await decide(store, "T1")
    gateway.open()
    await asyncio.gather(finder, return_exceptions=True)  # a busy machine may have kept it too long
    assert (await store.health()).undurable == 0
    assert store.salvaged is not None
    assert (store.salvaged.scans, store.salvaged.rebuilt > 5) == (40, True)
    reasons = [(await decide(store, each)).verdict.reason for each in ("T1", "T39", "N1", "N1")]
    again = [Reason.ALREADY_SCANNED if rules.admit_undurable else Reason.VALID]
    assert reasons == [Reason.ALREADY_SCANNED] * 2 + again + [Reason.ALREADY_SCANNED]
    await store.close()


# ---- a start on a disk that can't be written


class Full:
    """A disk that takes no more: files can be opened, and not written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.was = files.try_to_write

    def fill(self) -> None:
        self._monkeypatch.setattr(files, "try_to_write", full_disk)

    def empty(self) -> None:
        self._monkeypatch.setattr(files, "try_to_write", self.was)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    return Full(monkeypatch)


async def left_on(folder: Path) -> None:
    """A gate has admitted T1 and refused a stranger, and the server has heard of neither."""
    store = await opened(folder)
    await load(store, ticket("T1"), ticket("T2"), ticket("T3"))
    await decide(store, "T1")
    await decide(store, "nobody's")
    await store.close()


@pytest.mark.parametrize("rules", RULES)
async def test_a_gate_that_starts_on_a_full_disk_decides_by_what_can_be_read(tmp_path, full, rules):
    await left_on(tmp_path)
    full.fill()
    before = everything_in(tmp_path)
    store = await opened(tmp_path, rules)
    expected = [Reason.ALREADY_SCANNED, Reason.VALID, Reason.ALREADY_SCANNED]
    if not rules.admit_undurable:
        expected = [Reason.ALREADY_SCANNED, Reason.FAULT, Reason.FAULT]
    assert [(await decide(store, each)).verdict.reason for each in ("T1", "T2", "T2")] == expected
    health = await store.health()
    assert (health.undurable, health.complete, health.disk_fails) == (3, True, True)
    assert "full" in health.unwritable
    assert await store.upkeep() == 3
    with pytest.raises(StoreError):
        await store.purge("", moment(), lose_outbox=True)
    with pytest.raises(StoreError):
        await load(store, ticket("T4"))
    await store.close()
    assert everything_in(tmp_path) == before


async def test_a_full_disk_at_the_start_shows_before_the_first_scan(tmp_path, full):
    full.fill()
    store = await opened(tmp_path)
    assert (await store.health()).disk_fails
    full.empty()
    assert not (await store.health()).disk_fails
    await store.close()


async def test_the_outbox_of_a_disk_that_is_full_at_the_start_goes_up_and_is_not_sent_twice(tmp_path, full):
    await left_on(tmp_path)
    full.fill()
    store = await opened(tmp_path)
    await decide(store, "T2")
    assert sent(await upload(store)) == [("T1", 100)]
    assert sent(await upload(store)) == [("nobody's", 40)]
    assert sent(await upload(store)) == [("T2", 100)]
    await decide(store, "T3")
    full.empty()
    assert not (await store.health()).disk_fails
    assert sent(await upload(store)) == [("T3", 100)]
    assert await upload(store) == ()
    await load(store, ticket("T4"))
    decided = await decide(store, "T4")
    assert decided.seq == 5
    await store.close()
    assert reasons_on_disk(tmp_path) == ["valid", "unknown", "valid", "valid", "valid"]
    again = await opened(tmp_path)
    assert sent(await upload(again)) == [("T4", 100)]
    assert await upload(again) == ()
    await again.close()


async def test_rows_that_are_on_their_way_when_the_disk_is_back_are_noted_there(tmp_path, full):
    await left_on(tmp_path)
    full.fill()
    store = await opened(tmp_path)
    refused = await store.freeze(50, moment(time.monotonic()))
    lost = await store.freeze(50, moment(time.monotonic()))
    full.empty()
    await store.health()
    await store.park(refused, "refused")
    await store.close()
    assert sent(lost) == [("nobody's", 40)]
    again = await opened(tmp_path)
    assert {row.barcode_id: row.parked for row in await again.outbox_rows(0, 9)} == {
        "T1": "refused",
        "nobody's": "",
    }
    await again.close()


async def test_without_any_disk_a_gate_asks_then_downloads_into_memory_and_keeps_it_when_there_is_one(
    tmp_path,
):
    folder = tmp_path / "file" / "state"
    folder.parent.touch()
    store = await opened(folder)
    assert (await store.health()).unwritable
    ask = await store.decide(scan("T1", moment(time.monotonic())), ASK_ALL)
    assert isinstance(ask, Ask)
    assert ask.fallback.reason is Reason.NOT_READY
    await store.settle(ask, Reply(deny(None, Reason.NOT_READY), Origin.LOCAL))
    await load(store, ticket("T1"), ticket("T2"))
    reasons = [(await decide(store, each)).verdict.reason for each in ("T1", "T1", "T9")]
    assert reasons == [Reason.VALID, Reason.ALREADY_SCANNED, Reason.UNKNOWN]
    assert sent(await upload(store)) == [("T1", 100)]
    folder.parent.unlink()
    health = await store.health()
    assert (health.disk_fails, health.complete) == (False, True)
    assert (await decide(store, "T2")).seq == 5
    await store.close()
    again = await opened(folder)
    reasons = [(await decide(again, each)).verdict.reason for each in ("T1", "T2")]
    assert reasons == [Reason.ALREADY_SCANNED] * 2
    assert (await again.state()).service == "S1"
    await again.close()


async def test_a_gate_that_could_not_read_its_disk_at_the_start_goes_on_with_what_is_on_it(tmp_path):
    await left_on(tmp_path / "state")
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    (tmp_path / "state").touch()
    store = await opened(tmp_path / "state")
    await load(store, ticket("T1"), ticket("T2"))
    assert (await decide(store, "T1")).verdict.reason is Reason.VALID  # nobody knows better
    assert (await decide(store, "T2")).verdict.reason is Reason.VALID
    assert sent(await upload(store)) == [("T1", 100), ("T2", 100)]
    (tmp_path / "state").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "state")
    reasons = [(await decide(store, each)).verdict.reason for each in ("T1", "T2")]
    assert (await store.health()).complete
    reasons += [(await decide(store, each)).verdict.reason for each in ("T1", "T2", "T3")]
    assert reasons == [Reason.ALREADY_SCANNED] * 4 + [Reason.VALID]
    await store.close()
    again = await opened(tmp_path / "state")
    reasons = [(await decide(again, each)).verdict.reason for each in ("T1", "T2", "T3")]
    assert reasons == [Reason.ALREADY_SCANNED] * 3
    await again.close()


async def test_what_went_up_from_one_gates_card_is_not_noted_on_anothers(tmp_path, full):
    for gate in ("state", "other"):
        await left_on(tmp_path / gate)
    full.fill()
    store = await opened(tmp_path / "state")
    assert sent(await upload(store)) == [("T1", 100)]
    (tmp_path / "state").rename(tmp_path / "taken out")
    (tmp_path / "other").rename(tmp_path / "state")
    full.empty()
    assert not (await store.health()).disk_fails
    assert sent(await upload(store)) == [("T1", 100)]
    assert (await decide(store, "T1")).verdict.reason is Reason.ALREADY_SCANNED
    await store.close()


async def test_on_a_full_disk_another_services_tickets_are_not_decided_by_the_old_mirror(tmp_path, full):
    await left_on(tmp_path)
    full.fill()
    store = await opened(tmp_path)
    await store.bind("S2")
    assert (await decide(store, "T2")).verdict.reason is Reason.NOT_READY
    await load(store, ticket("T2"))
    assert (await decide(store, "T2")).verdict.reason is Reason.VALID
    assert (await store.state()).service == "S2"
    await store.close()


@pytest.mark.parametrize("name", ["journal.db", "mirror.db"])
async def test_a_file_from_a_newer_gated_is_refused_on_a_full_disk_too(tmp_path, full, name):
    await left_on(tmp_path)
    connection = sqlite3.connect(tmp_path / name)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for fails in (False, True):
        if fails:
            full.fill()
        with pytest.raises(StoreError, match="schema 99"):
            Store(tmp_path, DeskRules())


@pytest.mark.parametrize("name", ["journal.db", "mirror.db"])
async def test_a_file_that_is_damaged_on_a_full_disk_is_done_without_until_it_can_be_mended(
    tmp_path, full, monkeypatch, name
):
    await left_on(tmp_path)
    (tmp_path / name).write_bytes(b"\0no database" * 500)
    monkeypatch.setattr(files, "open_journal", full_disk_at_start)
    store = await opened(tmp_path)
    known = name == "journal.db"
    assert (await store.health()).complete is known
    await load(store, ticket("T2")) if not known else None
    assert (await decide(store, "T2")).verdict.reason is Reason.VALID
    assert [salvaged.kept for salvaged in (store.salvaged,) if salvaged] == [None] * known
    monkeypatch.undo()
    assert not (await store.health()).disk_fails
    assert [bool(salvaged.kept) for salvaged in (store.salvaged,) if salvaged] == [True] * known
    assert (await decide(store, "T2")).verdict.reason is Reason.ALREADY_SCANNED
    await store.close()
    assert reasons_on_disk(tmp_path)[-2:] == ["valid", "already_scanned"]


def full_disk_at_start(*_: object, **__: object) -> None:
    raise StoreError("database or disk is full")


# ---- notes, upload


async def test_notes_outlive_a_restart(tmp_path):
    store = await opened(tmp_path)
    await store.set_note("mode:A", "locked")
    await store.occurred("command", "A", "mode locked", "", moment())
    await store.close()
    again = Store(tmp_path, DeskRules())
    again.start()
    assert (await again.note("mode:A"), await again.note("mode:B")) == ("locked", None)
    await again.close()


async def test_a_late_answer_takes_a_scan_out_of_the_outbox(store):
    decided = await decide(store)
    assert decided.seq is not None
    await store.recorded_by_server(decided.seq, time.monotonic())
    assert await upload(store) == ()


async def test_an_operators_release_is_written_and_sent(store):
    decided = await store.override(scan("T1", direction=Direction.EXIT))
    assert (decided.verdict.code, decided.origin) == (200, Origin.OVERRIDE)
    assert [row.status_code for row in await upload(store)] == [200]


# ---- privacy

SECRET_WORDS = (b"BARCODE-SECRET-1", b"EXTERNAL-SECRET-1", b"BARCODE-SECRET-2", b"UNKNOWN-SECRET-3")


async def test_a_stolen_card_gives_away_no_barcode_and_no_external_id(tmp_path):
    store = await opened(tmp_path)
    await load(
        store,
        ticket("BARCODE-SECRET-1", external_barcode_id="EXTERNAL-SECRET-1"),
        ticket("BARCODE-SECRET-2"),
    )
    for barcode in ("EXTERNAL-SECRET-1", "BARCODE-SECRET-1", "BARCODE-SECRET-2", "UNKNOWN-SECRET-3"):
        await decide(store, barcode)
    assert b"BARCODE-SECRET-2" in everything_in(tmp_path)  # the outbox has to know it
    while await upload(store):
        pass
    await store.upkeep()
    on_card = everything_in(tmp_path)
    assert [word for word in SECRET_WORDS if word in on_card] == []
    await store.close()
    on_card = everything_in(tmp_path)
    assert [word for word in SECRET_WORDS if word in on_card] == []


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


async def test_a_scan_waits_for_no_checkpoint_of_the_mirror(store, monkeypatch):
    gateway = Gateway(monkeypatch, Mirror, "checkpoint")
    upkeep = asyncio.create_task(store.upkeep())
    await gateway.wait()
    decided = await decide(store, "T1")
    assert decided.verdict.admitted
    assert decided.seq is not None
    assert not upkeep.done()
    gateway.open()
    assert await upkeep == 0
