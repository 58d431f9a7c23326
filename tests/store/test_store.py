import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gated.core.outbox import Row
from gated.core.scan import Direction
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, admit, deny
from gated.errors import StoreError
from gated.store import Ask, Decided, DeskRules, Passage, Reply, Store
from gated.store.journal import Journal
from gated.store.mirror import Mirror
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
    """Holds up a method of the store's inside until it is opened; tells when somebody waits at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        through: Callable[..., object] = getattr(owner, name)

        def held(*args: object, **named: object) -> object:
            self.reached.set()
            assert self._open.wait(5.0)
            return through(*args, **named)

        monkeypatch.setattr(owner, name, held)

    def open(self) -> None:
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


async def test_a_download_is_written_in_pieces_of_a_hundred(store, monkeypatch):
    pieces: list[int] = []
    put = Mirror.put
    monkeypatch.setattr(
        Mirror, "put", lambda self, rows, **named: (pieces.append(len(rows)), put(self, rows, **named))
    )
    await load(store, *(ticket(f"N{number}") for number in range(250)))
    assert pieces == [100, 100, 50]
    assert await store.count() == 252


async def test_a_download_tells_of_tickets_that_were_used_too_often_once_here(store):
    admitted = await decide(store)
    twice = ticket(remaining=-1, checked_in=2)
    (double,) = await store.put([ticket("T2"), twice], asked=time.monotonic(), run=0)
    (here,) = double.here
    assert double.ticket.barcode_id == "T1"
    assert abs(here - admitted.scan.at.wall) < timedelta(milliseconds=1)
    assert await store.put([twice], asked=time.monotonic(), run=0) == ()


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


async def test_a_journal_that_is_damaged_stops_the_start_with_a_hint(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"no database" * 500)
    with pytest.raises(StoreError) as stopped:
        Store(tmp_path, DeskRules())
    assert "move it away" in stopped.value.hint


async def test_a_state_folder_that_can_not_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "state", DeskRules())


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
