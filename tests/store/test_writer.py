"""The database thread: what goes first, and what runs apart."""

import asyncio
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from gated.errors import StoreError
from gated.store.writer import Piece, Writer


@pytest.fixture
async def mended():
    """The errors that the thread was asked to mend, each with the name of the thread that was."""
    return []


@pytest.fixture
async def writer(mended):
    def mend(error: BaseException) -> bool:
        mended.append((error, threading.current_thread().name))
        return False

    writer = Writer("store", mend)
    writer.start()
    yield writer
    assert await writer.close(within_s=10)


async def test_while_a_piece_runs_apart_urgent_ones_go_and_the_others_wait_in_their_order(writer):
    done: list[str] = []
    gate = threading.Event()
    apart = writer.do_apart(lambda: gate.wait(10) and done.append("apart"))
    others = [writer.do(partial(done.append, f"other {number}")) for number in (1, 2)]
    for number in (1, 2):
        await writer.do(partial(done.append, f"scan {number}"), urgent=True)
    assert writer.busy_s == 0.0
    assert writer.held_up_s > 0.0
    gate.set()
    await apart
    await others[1]
    assert done == ["scan 1", "scan 2", "apart", "other 1", "other 2"]
    assert writer.held_up_s == 0.0


async def test_a_second_piece_apart_waits_for_the_first(writer):
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    for piece in [writer.do_apart(work) for _ in range(20)]:
        await piece
    assert most == [1] * 20


async def test_the_end_of_the_thread_waits_for_what_runs_apart_and_for_what_waits_for_that():
    writer = Writer("store")
    writer.start()
    gate, done = threading.Event(), []
    writer.do_apart(lambda: gate.wait(10) and done.append("apart"))
    writer.do(partial(done.append, "other"))
    assert not await writer.close(within_s=0.01)
    gate.set()
    assert await writer.close(within_s=10)
    assert done == ["apart", "other"]


async def test_an_error_apart_is_told_and_mended_on_the_database_thread(writer, mended):
    error = StoreError("as planned")

    def fail() -> None:
        raise error

    with pytest.raises(StoreError, match="as planned"):
        await writer.do_apart(fail)
    assert mended == [(error, "store")]


async def test_where_urgent_pieces_come_without_end_one_other_goes_after_sixteen_of_them(writer):
    done: list[str] = []
    begun, gate = threading.Event(), threading.Event()
    first = writer.do(lambda: begun.set() or gate.wait(10))
    assert await asyncio.to_thread(begun.wait, 10)
    last = [writer.do(partial(done.append, "other")) for _ in range(3)][-1]
    for _ in range(40):
        writer.do(partial(done.append, "scan"), urgent=True)
    gate.set()
    await first
    await last
    assert [place for place, what in enumerate(done) if what == "other"][:2] == [16, 33]


async def test_whoever_waits_for_a_piece_apart_is_told_even_if_mending_fails():
    def mend(error: BaseException) -> bool:
        raise OSError("and this as well") from error

    writer = Writer("store", mend)
    writer.start()

    def fail() -> None:
        raise StoreError("as planned")

    with pytest.raises(StoreError, match="as planned"):
        await asyncio.wait_for(writer.do_apart(fail), 10)
    await asyncio.wait_for(writer.do(lambda: None), 10)
    assert await writer.close(within_s=10)


async def test_urgent_pieces_run_within_one_that_makes_way_and_in_their_order(writer):
    done: list[str] = []

    def page() -> None:
        for number in (1, 2):
            writer.do(partial(done.append, f"scan {number}"), urgent=True)
        assert not writer.make_way(within=True)
        done.append("page")

    await writer.do(page)
    assert done == ["scan 1", "scan 2", "page"]


async def test_where_urgent_pieces_come_without_end_sixteen_run_within_a_page_which_ends_then(writer):
    done: list[str] = []

    def page() -> None:
        for _ in range(10):
            writer.do(partial(done.append, "scan"), urgent=True)
        assert not writer.make_way(within=True)
        for _ in range(10):
            writer.do(partial(done.append, "scan"), urgent=True)
        assert writer.make_way(within=True)
        done.append("page")

    pages = writer.do(page)
    other = writer.do(partial(done.append, "other"))
    await pages
    await other
    assert [done.index("page"), done.index("other")] == [16, 17]


async def test_a_piece_that_none_may_run_within_had_better_end_where_an_urgent_one_waits(writer):
    done: list[str] = []

    def page() -> None:
        assert not writer.make_way(within=False)
        writer.do(partial(done.append, "scan"), urgent=True)
        assert writer.make_way(within=False)
        done.append("page")

    await writer.do(page)
    await writer.do(lambda: None)
    assert done == ["page", "scan"]


async def test_what_was_owed_while_a_piece_ran_apart_is_done_before_the_thread_ends():
    writer = Writer("store")
    writer.start()
    done: list[int] = []
    runs_apart, rejoins, begun, scan_ends = (threading.Event() for _ in range(4))
    apart = writer.do_apart(lambda: runs_apart.set() or rejoins.wait(10))
    assert await asyncio.to_thread(runs_apart.wait, 10)
    for number in (1, 2, 3):
        writer.do(partial(done.append, number))
    while len(writer._owed) < 3:
        await asyncio.sleep(0)
    writer.do(lambda: begun.set() or scan_ends.wait(10), urgent=True)
    assert await asyncio.to_thread(begun.wait, 10)
    rejoins.set()  # its rejoining waits for the scan, and so do those that wait for that
    while not writer._urgent:
        await asyncio.sleep(0)
    closing = asyncio.create_task(writer.close(within_s=10))
    await asyncio.sleep(0)
    scan_ends.set()
    assert await closing
    await apart
    assert done == [1, 2, 3]


async def test_an_urgent_piece_that_fails_within_another_ends_it_and_is_mended_on_its_own(writer, mended):
    done: list[str] = []
    failing: list[Piece[None]] = []

    def fail() -> None:
        done.append("scan")
        raise StoreError("as planned")

    def page() -> None:
        failing.append(writer.do(fail, urgent=True))
        assert writer.make_way(within=True)
        assert not mended
        done.append("page")

    await writer.do(page)
    with pytest.raises(StoreError, match="as planned"):
        await failing[0]
    assert done == ["scan", "page", "scan"]
    assert len(mended) == 1


async def test_an_urgent_piece_that_was_taken_back_is_not_run_within_another(writer):
    done: list[str] = []

    def page() -> None:
        taken_back = writer.do(partial(done.append, "taken back"), urgent=True)
        assert taken_back.take()
        writer.do(partial(done.append, "scan"), urgent=True)
        assert not writer.make_way(within=True)

    await writer.do(page)
    await writer.do(partial(done.append, "other"))
    assert done == ["scan", "other"]


async def test_the_time_of_what_runs_within_a_piece_is_not_its_own(writer, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gated.store.writer.time", SimpleNamespace(monotonic=lambda: now[0]))

    def hang() -> float:
        now[0] += 50
        return writer.busy_s

    def page() -> float:
        now[0] += 0.0625
        scan.append(writer.do(hang, urgent=True))
        assert not writer.make_way(within=True)
        return writer.busy_s

    scan: list[Piece[float]] = []
    assert await writer.do(page) == 0.0625
    assert await scan[0] == 50


async def test_a_piece_that_has_run_for_long_had_better_end(writer, monkeypatch):
    monkeypatch.setattr("gated.store.writer._LONG_S", -1.0)
    assert await writer.do(partial(writer.make_way, within=True))
