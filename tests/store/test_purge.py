"""After the event: nothing of it is left in any file, and the gate goes on as a fresh one."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gated.core.scan import TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Reason
from gated.errors import StoreError
from gated.store import Ask, Decided, DeskRules, Passage, Reply, Store
from gated.store.journal import Journal
from gated.store.mirror import Mirror
from gated.store.privacy import Secrets
from tests.store.desks import ASK_ALL, LOCAL, moment, scan, ticket

BARCODES = [f"BARCODE-{number:04}" for number in range(300)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await opened(tmp_path)
    await load(store)
    yield store
    await store.close()


async def opened(folder: Path) -> Store:
    store = Store(folder, DeskRules())
    store.start()
    await store.bind("S1")
    return store


def tickets() -> Sequence[Ticket]:
    return [
        ticket(each, external_barcode_id=f"EXTERNAL-{each}", type_name="TYPENAME", subtitle="SUBTITLE")
        for each in BARCODES
    ]


async def load(store: Store) -> None:
    await store.put(tickets(), asked=time.monotonic(), run=1)
    await store.set_service_types(frozenset({"TYPENAME"}), time.monotonic())
    await store.remember(complete=1, mark=1_800_000_000, tickets=len(BARCODES), run=1)


async def decide(store: Store, barcode: str = BARCODES[0]) -> Decided:
    answer = await store.decide(scan(barcode, moment(time.monotonic())), LOCAL)
    assert isinstance(answer, Decided)
    return answer


async def upload(store: Store) -> None:
    while rows := await store.freeze(50, moment(time.monotonic())):
        await store.acknowledge(rows, time.monotonic())


async def purge(store: Store, *, lose_outbox: bool = False) -> int:
    return await store.purge("the event is over", moment(time.monotonic()), lose_outbox=lose_outbox)


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def traces(folder: Path, secret: bytes) -> list[bytes]:
    """What of the event can be found in any file, by whoever knows what to look for."""
    secrets, content = Secrets(secret), files(folder)
    words = [b"BARCODE", b"EXTERNAL", b"TYPENAME", b"SUBTITLE", secret]
    digests = [secrets.digest(text) for each in BARCODES for text in (each, f"EXTERNAL-{each}")]
    return [each for each in (*words, *digests) if each in content]


def secret_of(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "journal.db")
    (secret,) = connection.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    connection.close()
    return bytes(secret)


async def test_nothing_of_the_event_is_left_in_any_file(tmp_path):
    store = await opened(tmp_path)
    await load(store)
    secret = secret_of(tmp_path)
    for barcode in BARCODES[:20]:
        await decide(store, barcode)
    await store.occurred("alarm", "A", "SUBTITLE", "", moment())
    await store.put([ticket(BARCODES[0], checked_in=3)], asked=time.monotonic(), run=0)  # a double entry
    assert len(traces(tmp_path, secret)) > 200
    await upload(store)
    await decide(store, BARCODES[50])
    assert await purge(store, lose_outbox=True) == 1
    assert traces(tmp_path, secret) == []
    assert secret_of(tmp_path) != secret
    await store.close()
    assert traces(tmp_path, secret) == []


async def test_scans_that_wait_for_the_server_are_kept_until_it_has_them(store, tmp_path):
    await decide(store)
    secret = secret_of(tmp_path)
    assert await purge(store) == 1
    assert (await store.state()).outbox.check_ins == 1
    assert (secret_of(tmp_path), (await store.state()).complete) == (secret, True)
    await upload(store)
    assert await purge(store) == 0
    assert secret_of(tmp_path) != secret


async def test_a_parked_scan_waits_too(store):
    await decide(store)
    await store.park(await store.freeze(50, moment(time.monotonic())), "refused")
    assert await purge(store) == 1
    assert (await store.state()).outbox.parked == 1


async def test_the_gate_goes_on_as_a_fresh_one_and_takes_the_tickets_anew(store):
    assert await purge(store) == 0
    state = await store.state()
    assert (state.complete, state.mark, state.run, state.tickets) == (False, None, 0, 0)
    assert (state.service, await store.count()) == ("S1", 0)
    assert (await decide(store)).verdict.reason is Reason.NOT_READY
    await load(store)
    assert [(await decide(store)).verdict.reason for _ in range(2)] == [Reason.VALID, Reason.ALREADY_SCANNED]
    assert await store.count() == len(BARCODES)


async def test_after_a_restart_the_new_tickets_are_still_there(tmp_path):
    store = await opened(tmp_path)
    await load(store)
    await purge(store)
    await load(store)
    await store.close()
    store = await opened(tmp_path)
    assert (await decide(store)).verdict.reason is Reason.VALID
    await store.close()


async def test_modes_and_the_emergency_stay(store):
    await store.set_note("mode:A", "locked")
    await store.set_note("emergency", 1)
    await purge(store)
    assert (await store.note("mode:A"), await store.note("emergency")) == ("locked", 1)


async def test_the_journal_says_when_and_why_it_was_purged_and_nothing_else(store, tmp_path):
    await store.occurred("command", "A", "release", "a pram", moment())
    await purge(store)
    connection = sqlite3.connect(tmp_path / "journal.db")
    rows = connection.execute("SELECT kind, lane, what, why, trust FROM occurrence").fetchall()
    connection.close()
    assert rows == [("command", None, "purge", "the event is over", "synchronised")]


async def test_scans_are_decided_while_the_purge_is_under_way_and_are_not_lost(store, monkeypatch):
    for barcode in BARCODES[:20]:
        await decide(store, barcode)
    monkeypatch.setattr("gated.store.mirror._WIPED", 5)
    monkeypatch.setattr("gated.store.journal._WIPED", 1)
    purging = asyncio.create_task(purge(store, lose_outbox=True))
    decided = []
    while not purging.done():
        decided.append(await decide(store, f"LATE-{len(decided)}"))
        await asyncio.sleep(0)
    reasons = [each.verdict.reason for each in decided]
    came_before = reasons.count(Reason.UNKNOWN)
    meanwhile = len(decided) - came_before
    assert meanwhile > 10
    assert reasons == [Reason.UNKNOWN] * came_before + [Reason.NOT_READY] * meanwhile
    assert await purging == 20 + came_before
    found = await store.explain_scan(decided[-1].scan.id, moment(time.monotonic()))
    assert found is not None
    assert [each.id for each in found.scans] == [decided[-1].scan.id]


async def test_what_comes_late_of_a_forgotten_scan_touches_no_other(store):
    old = [await decide(store, barcode) for barcode in BARCODES[:3]]
    await purge(store, lose_outbox=True)
    await load(store)
    new = [await decide(store, barcode) for barcode in BARCODES[:3]]
    assert {each.seq for each in old}.isdisjoint({each.seq for each in new})
    for each in old:
        await store.set_passage(each.seq, Passage.NOT_TAKEN)
        await store.recorded_by_server(each.seq, time.monotonic())
    assert (await store.state()).outbox.check_ins == 3


async def test_a_question_under_way_is_settled_afterwards_and_holds_nothing(store):
    ask = await store.decide(scan(BARCODES[0], moment(time.monotonic())), ASK_ALL)
    assert isinstance(ask, Ask)
    await purge(store)
    await load(store)
    await store.settle(ask, Reply(ask.fallback, ask.origin))
    assert (await decide(store)).verdict.reason is Reason.ALREADY_SCANNED


async def test_running_time_and_the_lower_bound_of_the_time_go_on(tmp_path):
    store = await opened(tmp_path)
    await load(store)
    decided = await decide(store)
    ran = store._running.at(time.monotonic())
    await purge(store, lose_outbox=True)
    await store.close()
    store = await opened(tmp_path)
    assert store._running.at(time.monotonic()) >= ran
    assert store._journal.latest_wall_ms() >= int(decided.scan.at.wall.timestamp() * 1000)
    await store.close()


async def test_a_purge_at_an_unknown_time_does_not_move_the_lower_bound(store):
    decided = await decide(store)
    await store.purge("", moment(99999.0, TimeTrust.UNKNOWN), lose_outbox=True)
    assert store._journal.latest_wall_ms() == int(decided.scan.at.wall.timestamp() * 1000)


@pytest.mark.parametrize("part", [Mirror, Journal])
async def test_what_a_purge_that_is_cut_short_has_left_is_wiped_at_the_next_start(
    tmp_path, part, monkeypatch
):
    store = await opened(tmp_path)
    await load(store)
    for barcode in BARCODES[:20]:
        await decide(store, barcode)
    secret = secret_of(tmp_path)

    def power_cut(_: object) -> bool:
        raise sqlite3.OperationalError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(part, "wipe_piece", power_cut)
        with pytest.raises(StoreError, match="power cut"):
            await purge(store, lose_outbox=True)
    assert traces(tmp_path, secret)
    await store.close()
    store = await opened(tmp_path)
    await store.upkeep()
    assert traces(tmp_path, secret) == []
    assert (await decide(store)).verdict.reason is Reason.NOT_READY
    assert await store.count() == 0
    await store.close()


async def test_while_the_disk_fails_nothing_is_purged(store, tmp_path):
    secret = secret_of(tmp_path)
    store._journal._db.execute("PRAGMA query_only = ON")
    await decide(store)
    with pytest.raises(StoreError, match="in memory") as caught:
        await purge(store, lose_outbox=True)
    assert caught.value.hint
    store._journal._db.execute("PRAGMA query_only = OFF")
    assert (await store.state()).complete
    assert secret_of(tmp_path) == secret
