"""The judge of the power cuts sees what it is there to see: each kind of broken promise, made on purpose."""

import sqlite3
import time
from pathlib import Path

import pytest

from gated.api.simulator import UploadedScan, made_up_event
from gated.store import DeskRules, Store
from tests.store.desks import LOCAL, moment, scan, ticket
from tests.vm.power import Server
from tests.vm.truth import Truth

pytestmark = pytest.mark.vm

BARCODES = [f"GATED{number:06}" for number in range(1, 4)]
ENTRY = 17  # guest/cut.toml


@pytest.fixture
def truth() -> Truth:
    return Truth(lambda: BARCODES, 1)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """The files of a gate at whose entry all of them were read, one after another."""
    store = Store(tmp_path, DeskRules())
    store.start()
    await store.bind("S1")
    await store.put([ticket(each) for each in BARCODES], asked=time.monotonic(), run=1)
    for each in BARCODES:
        await store.decide(scan(each, moment(time.monotonic()), lane="entry"), LOCAL)
    await store.close()
    return tmp_path


def let_in(truth: Truth, *barcodes: str) -> None:
    """What is seen of guests at the entry."""
    for barcode in barcodes:
        truth.told["entry"] = barcode
        for level in (1, 0):
            truth.hear({"what": "level", "pin": ENTRY, "level": level})


def uploaded(truth: Truth, *, times: int) -> Server:
    """A server that has each scan of the journal so many times."""
    server = Server(made_up_event(len(BARCODES)), lambda *_: True)
    rows = [
        UploadedScan(entry.barcode, entry.second, entry.code or 0, "") for entry in truth.journal.values()
    ]
    server.event.upload(rows * times)
    return server


def test_relays_with_their_scans_are_no_violation(truth: Truth, folder: Path) -> None:
    let_in(truth, *BARCODES)
    truth.compare(folder, "now")
    assert truth.violations == []
    assert truth.twice() == []
    assert truth.compare_server(uploaded(truth, times=1))[1] == []


def test_a_relay_without_its_scan_is_a_violation(truth: Truth, folder: Path) -> None:
    with sqlite3.connect(folder / "journal.db") as journal:
        journal.execute("DELETE FROM scan WHERE seq = 2")
    let_in(truth, *BARCODES)
    truth.compare(folder, "now")
    assert truth.violations == [f"now: [('entry', '{BARCODES[1]}')] moved a relay and are not in the journal"]


def test_a_journal_that_is_gone_or_damaged_is_a_violation(truth: Truth, folder: Path) -> None:
    let_in(truth, *BARCODES)
    truth.compare(folder / "nothing", "first")
    path = folder / "journal.db"
    content = bytearray(path.read_bytes())
    page = 4096  # bytes, SQLite's default
    content[page : 2 * page] = bytes(page)
    path.write_bytes(content)
    truth.compare(folder, "then")
    assert truth.violations[0] == "first: the journal is gone"
    assert truth.violations[1].startswith("then: journal.db is damaged")


def test_another_secret_without_a_purge_is_a_violation(truth: Truth, folder: Path) -> None:
    truth.compare(folder, "first")
    with sqlite3.connect(folder / "journal.db") as journal:
        journal.execute("UPDATE meta SET value = zeroblob(32) WHERE key = 'secret'")
    truth.compare(folder, "then")
    assert "then: another secret without a purge" in truth.violations


def test_what_a_purge_left_in_the_file_is_a_violation(truth: Truth, folder: Path) -> None:
    truth.compare(folder, "before")
    truth.purge_begins()
    with sqlite3.connect(folder / "journal.db") as journal:
        journal.execute("UPDATE meta SET value = zeroblob(32) WHERE key = 'secret'")
    truth.compare(folder, "cut")
    assert (truth.purges, truth.violations) == (1, [])
    assert {entry.barcode for entry in truth.journal.values()} == set(BARCODES)
    truth.compare(folder, "later")
    assert truth.violations == ["later: what was purged is still in the file"]


def test_half_a_step_of_the_schema_is_a_violation(truth: Truth, folder: Path) -> None:
    truth.steps = 1
    truth.compare(folder, "before")
    with sqlite3.connect(folder / "journal.db") as journal:
        journal.execute("PRAGMA user_version = 2")
    truth.compare(folder, "cut")
    assert truth.violations == ["cut: schema 2 with [], after 1 steps"]


def test_a_ticket_that_is_let_in_twice_is_found(truth: Truth) -> None:
    let_in(truth, BARCODES[0], BARCODES[1], BARCODES[0])
    assert truth.twice() == [BARCODES[0]]


def test_a_scan_that_the_server_lacks_or_has_again_unmarked_is_found(truth: Truth, folder: Path) -> None:
    truth.compare(folder, "now")
    for times, words in ((0, "the server has 0"), (2, "and no mark tells why")):
        found = truth.compare_server(uploaded(truth, times=times))[1]
        assert len(found) == len(BARCODES)
        assert all(words in each for each in found)


def test_a_marked_scan_may_come_again(truth: Truth, folder: Path) -> None:
    with sqlite3.connect(folder / "journal.db") as journal:
        journal.execute("UPDATE scan SET marked = 1")
    truth.compare(folder, "now")
    counts, found = truth.compare_server(uploaded(truth, times=2))
    assert (counts["marked"], counts["again"], found) == (3, 3, [])
