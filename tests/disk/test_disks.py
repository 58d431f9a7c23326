"""Real gates on real disks that are full, hang, break down, or bring back other bytes than were written."""

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from gated.api.simulator import Simulator, made_up_event
from gated.store.pages import PAGE_BYTES
from tests.disk.disks import Disk
from tests.disk.gates import DiskGate, Watchdog

pytestmark = pytest.mark.disk

AT_ONCE = 2.0  # seconds in which a lane acts whatever the disk does: 1 s for a commit, 1 s for a busy machine
NOISE = Random(3).randbytes(PAGE_BYTES)
MANY = 20_000  # rows: more than SQLite keeps in memory of a file
WATCHDOG_S = 15.0  # systemd/gated.service


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(made_up_event(extra=60)) as simulator:
        yield simulator


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "disk.img", tmp_path / "gate" / "state") as disk:
        yield disk


@pytest.fixture
def watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    watchdog = Watchdog(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(watchdog.path))
    return watchdog


def gate_on(disk: Disk, server: Simulator, on_failure: str = "admit") -> DiskGate:
    return DiskGate(disk, server.url, on_failure)


def name(number: int) -> str:
    return f"GATED{number:06}"


def scan(gate: DiskGate, number: int) -> tuple[str, str]:
    """Scans a ticket at the entrance, for which it may not wait; returns verdict and reason."""
    began = time.monotonic()
    line = gate.scan(name(number))
    assert time.monotonic() - began < AT_ONCE, line
    if line["verdict"] == "ADMIT":
        gate.wait("passage")
    time.sleep(0.1)  # the same barcode sooner is the scanner's, not a guest's
    return line["verdict"], line["reason"]


def leave(gate: DiskGate, number: int) -> float:
    """Scans at the exit; returns the seconds until the barrier was released."""
    began = time.monotonic()
    gate.exit.send(f"{name(number)}\r".encode())
    gate.wait("scan", lane="out")
    return time.monotonic() - began


def uploads(server: Simulator) -> Counter[tuple[str, int]]:
    return Counter((each.scan.barcode_id, each.scan.status_code) for each in server.uploaded)


def wait_uploaded(server: Simulator, *expected: tuple[int, int], within: float = 15.0) -> None:
    """Until the server has each of these scans, ticket and code, at least once; more only where marked."""
    wanted = {(name(number), code) for number, code in expected}
    until = time.monotonic() + within
    while time.monotonic() < until:
        if wanted <= uploads(server).keys():
            break
        time.sleep(0.05)
    assert wanted <= uploads(server).keys()


def marked(disk: Disk) -> int:
    """How many scans were sent again though the server may have had them."""
    connection = sqlite3.connect(disk.at / "journal.db")
    (count,) = connection.execute("SELECT count(*) FROM scan WHERE marked = 1").fetchone()
    connection.close()
    return int(count)


def doubles(server: Simulator) -> int:
    return sum(count - 1 for count in uploads(server).values())


# ---- full


@pytest.mark.parametrize("on_failure", ["admit", "deny"])
def test_on_a_full_disk_lanes_act_as_configured_and_no_scan_is_lost(disk, server, on_failure):
    admits = on_failure == "admit"
    expected = ("ADMIT", "valid") if admits else ("DENY", "fault")
    with gate_on(disk, server, on_failure) as gate:
        gate.wait_downloaded()
        shown = gate.shown()
        assert scan(gate, 1) == ("ADMIT", "valid")
        disk.fill()
        use_up_room(gate)
        assert [scan(gate, number) for number in (2, 3, 4)] == [expected] * 3
        assert scan(gate, 2) == (("DENY", "already_scanned") if admits else expected)
        assert scan(gate, 1) == ("DENY", "already_scanned")
        shown.until("disk_failing")
        assert leave(gate, 2) < AT_ONCE
        disk.empty()
        gate.wait_until("status['store']['undurable'] == 0")
        shown.until("ready")
        wait_uploaded(server, (1, 100), (1, 50))
        if admits:
            wait_uploaded(server, (2, 100), (3, 100), (4, 100), (2, 50), (2, 200))
        assert scan(gate, 2) == (("DENY", "already_scanned") if admits else ("ADMIT", "valid"))
    assert sum(count - 1 for (_, code), count in uploads(server).items() if code == 100) <= marked(disk)


def use_up_room(gate: DiskGate) -> None:
    """Scans until what the journal holds of a disk that is full now is used up: it does so for some scans."""
    until = time.monotonic() + 15
    while not gate.status()["store"]["undurable"]:
        assert time.monotonic() < until, "the disk is not full"
        assert scan(gate, 1) == ("DENY", "already_scanned")


def test_a_gate_that_is_killed_on_a_full_disk_loses_no_scan_that_it_had_written(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        server.stop()
        for number in (1, 2):
            scan(gate, number)
        disk.fill()
        gate.process.kill()
        gate.process.wait()
    disk.empty()
    server.start()
    with gate_on(disk, server) as gate:
        wait_uploaded(server, (1, 100), (2, 100))
        assert scan(gate, 1) == ("DENY", "already_scanned")


def test_a_purge_on_a_full_disk_forgets_everything_or_says_that_it_could_not(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        scan(gate, 1)
        wait_uploaded(server, (1, 100))
        disk.fill()
        told = gate.purge()
        disk.empty()
        if told:
            assert "full" in told or "disk" in told
            assert gate.purge() == ""
        left = b"".join(path.read_bytes() for path in disk.at.glob("*.db*"))
        assert b"GATED0000" not in left


# ---- hanging


@pytest.mark.parametrize(
    ("on_failure", "expected"), [("admit", ("ADMIT", "valid")), ("deny", ("DENY", "fault"))]
)
def test_while_commits_hang_for_20_seconds_lanes_act_as_configured_and_no_scan_is_lost(
    disk, server, watchdog, on_failure, expected
):
    with gate_on(disk, server, on_failure) as gate:
        gate.wait_downloaded()
        shown = gate.shown()
        assert scan(gate, 1) == ("ADMIT", "valid")
        with disk.frozen() as since:
            assert [scan(gate, number) for number in (2, 3)] == [expected] * 2
            shown.until("disk_failing")
            assert scan(gate, 1) == ("DENY", "already_scanned")
            assert leave(gate, 3) < AT_ONCE
            if on_failure == "admit":
                assert scan(gate, 2) == ("DENY", "already_scanned")
            time.sleep(max(0.0, since + 20 - time.monotonic()))
        assert watchdog.longest_gap(since) < WATCHDOG_S / 3
        shown.until("ready")
        gate.wait_until("status['store']['undurable'] == 0")
        wait_uploaded(server, (1, 100), (1, 50))
        if on_failure == "admit":
            wait_uploaded(server, (2, 100), (3, 100), (2, 50), (3, 200))
            assert scan(gate, 3) == ("DENY", "already_scanned")
    assert doubles(server) <= marked(disk)


def test_a_gate_is_stopped_quickly_while_the_disk_hangs(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        with disk.frozen():
            gate.entry.send(f"{name(1)}\r".encode())
            gate.wait("scan", lane="in")
            began = time.monotonic()
            gate.process.send_signal(signal.SIGTERM)
            gate.wait("stopped")
            assert time.monotonic() - began < 5
        # What hangs in the kernel can't be ended by anybody: the process is gone once the disk goes on.
        assert gate.process.wait(10) == 0


# ---- broken down: read-only for good


def test_on_a_disk_that_broke_down_guests_come_in_once_and_the_server_hears_of_them_at_once(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        shown = gate.shown()
        assert scan(gate, 1) == ("ADMIT", "valid")
        disk.break_down()
        assert [scan(gate, number) for number in (2, 3)] == [("ADMIT", "valid")] * 2
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned")] * 2
        shown.until("disk_failing")
        wait_uploaded(server, (1, 100), (2, 100), (3, 100))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    disk.unmount()
    disk.mount()
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert [scan(gate, number) for number in (1, 2, 3)] == [("DENY", "already_scanned")] * 3


# ---- a start on a disk that can't be written


def stop_writing(disk: Disk, how: str) -> None:
    """While no gate runs."""
    if how == "full":
        disk.fill()
    else:
        disk.remount("ro")


def go_on_writing(disk: Disk, gate: DiskGate, how: str) -> None:
    if how == "full":
        disk.empty()
    else:
        gate.remount("rw")
        disk.remount("rw")


def alarmed(gate: DiskGate) -> bool:
    return "disk_failing" in gate.status()["alarms"]


def end(gate: DiskGate, *, killed: bool) -> None:
    """Stops a gate, or takes its power: then its WALs are left as they are."""
    if killed:
        gate.process.kill()
        gate.process.wait()
    else:
        gate.stop()


# Who is killed leaves a WAL in which there is room on a full disk: that one can be written.
@pytest.mark.parametrize(
    ("how", "killed"),
    [("full", False), ("read-only", False), ("read-only", True)],
    ids=["full", "read-only", "read-only after a kill"],
)
def test_a_gate_starts_on_a_disk_that_can_not_be_written_and_needs_no_restart_when_it_can(
    disk, server, how, killed
):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        server.stop()
        assert scan(gate, 1) == ("ADMIT", "valid")
        end(gate, killed=killed)
    stop_writing(disk, how)
    with gate_on(disk, server) as gate:
        shown = gate.shown()
        shown.until("disk_failing")
        assert alarmed(gate)
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned"), ("ADMIT", "valid")]
        assert scan(gate, 2) == ("DENY", "already_scanned")
        assert leave(gate, 2) < AT_ONCE
        server.start()
        wait_uploaded(server, (1, 100), (2, 100), (2, 50), (2, 200), within=40)
        assert alarmed(gate)
        go_on_writing(disk, gate, how)
        shown.until("ready")
        gate.wait_until("status['store']['undurable'] == 0")
        assert not alarmed(gate)
        assert scan(gate, 3) == ("ADMIT", "valid")
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned")] * 2
        wait_uploaded(server, (3, 100))
        gate.wait_until("status['store']['outbox']['check_ins'] == 0")
        end(gate, killed=killed)
    assert [count for (_, code), count in uploads(server).items() if code == 100] == [1, 1, 1]
    assert scans_in(disk.at / "journal.db") == 8
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert [scan(gate, number) for number in (1, 2, 3)] == [("DENY", "already_scanned")] * 3


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_gate_that_is_killed_after_a_start_on_a_disk_that_can_not_be_written_loses_no_scan_to_the_server(
    disk, server, how
):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        server.stop()
        assert scan(gate, 1) == ("ADMIT", "valid")
    stop_writing(disk, how)
    server.start()
    with gate_on(disk, server) as gate:
        assert scan(gate, 2) == ("ADMIT", "valid")
        wait_uploaded(server, (1, 100), (2, 100), within=40)
        end(gate, killed=True)
    disk.remount("rw")
    disk.empty()
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned")] * 2


@pytest.mark.parametrize("on_failure", ["admit", "deny"])
def test_a_gate_starts_with_no_file_on_a_read_only_disk_and_has_its_tickets_in_memory(
    disk, server, on_failure
):
    stop_writing(disk, "read-only")
    expected = ("ADMIT", "valid") if on_failure == "admit" else ("DENY", "fault")
    with gate_on(disk, server, on_failure) as gate:
        shown = gate.shown()
        gate.wait_downloaded()
        shown.until("disk_failing")
        assert scan(gate, 1) == expected
        assert leave(gate, 1) < AT_ONCE
        go_on_writing(disk, gate, "read-only")
        shown.until("ready")
        again = ("DENY", "already_scanned") if on_failure == "admit" else ("ADMIT", "valid")
        assert scan(gate, 1) == again
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert scan(gate, 1) == ("DENY", "already_scanned")
    assert uploads(server)[name(1), 100] == 1


# ---- other bytes than were written


def spoil(path: Path, page: int, content: bytes = NOISE) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(content)


def test_a_mirror_of_noise_is_begun_anew_at_a_start(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        scan(gate, 1)
    (disk.at / "mirror.db").write_bytes(NOISE * 50)
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned"), ("ADMIT", "valid")]


@pytest.mark.parametrize("page", [1, "scan", "outbox", "movement"])
def test_a_journal_that_was_damaged_while_the_gate_was_off_is_salvaged_at_the_start(disk, server, page):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        server.stop()
        for number in (1, 2):
            scan(gate, number)
    journal = disk.at / "journal.db"
    spoil(journal, page if isinstance(page, int) else root_of(journal, page))
    server.start()
    with gate_on(disk, server) as gate:
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned")] * 2
        if page != "outbox":
            wait_uploaded(server, (1, 100), (2, 100))
        assert scan(gate, 3) == ("ADMIT", "valid")
        gate.wait_until("'journal_damaged' in status['alarms']")
    assert len(list(disk.at.glob("*.damaged"))) == 1


def test_a_mirror_that_turns_to_noise_under_a_running_gate_is_begun_anew(disk):
    with Simulator(made_up_event(extra=MANY)) as server, gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert scan(gate, 1) == ("ADMIT", "valid")
        for path in (disk.at / "mirror.db", disk.at / "mirror.db-wal"):
            for page in range(2, path.stat().st_size // PAGE_BYTES + 1):
                spoil(path, page)
        assert scan(gate, MANY - 1) == ("ADMIT", "valid")
        assert scan(gate, 1) == ("DENY", "already_scanned")
        gate.wait_downloaded()
        gate.wait_until(f"status['store']['tickets'] > {MANY}")
        assert scan(gate, MANY // 2) == ("ADMIT", "valid")
        assert [scan(gate, number) for number in (1, MANY - 1)] == [("DENY", "already_scanned")] * 2


def test_a_journal_that_turns_to_noise_under_a_running_gate_is_salvaged_at_once(disk, server):
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        assert scan(gate, 1) == ("ADMIT", "valid")
    journal = disk.at / "journal.db"
    add_scans(journal, MANY)
    pages = pages_of(journal, "movement")
    with gate_on(disk, server) as gate:
        gate.wait_downloaded()
        for page in pages:
            spoil(journal, page)
        if gate.scan(name(2))["verdict"] == "DENY":  # it took too long: the guest tries once more
            time.sleep(1)
            assert gate.scan(name(2))["verdict"] == "ADMIT"
        gate.wait("passage")
        assert [scan(gate, number) for number in (1, 2)] == [("DENY", "already_scanned")] * 2
        gate.wait_until("'journal_damaged' in status['alarms']")
        wait_uploaded(server, (1, 100), (2, 100), (1, 50), (2, 50))
    assert scans_in(journal) >= MANY + 4
    assert len(list(disk.at.glob("*.damaged"))) == 1


def add_scans(journal: Path, number: int) -> None:
    """Adds scans of other tickets: more than what SQLite keeps in memory of the file."""
    connection = sqlite3.connect(journal)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(scan)") if row[1] != "seq"]
    taken = ", ".join("randomblob(16)" if column == "ticket" else column for column in columns)
    connection.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {number})"
        f" INSERT INTO scan ({', '.join(columns)}) SELECT {taken} FROM n, (SELECT * FROM scan LIMIT 1)"
    )
    connection.commit()
    connection.close()


def scans_in(journal: Path) -> int:
    connection = sqlite3.connect(journal)
    (scans,) = connection.execute("SELECT count(*) FROM scan").fetchone()
    connection.close()
    return int(scans)


def pages_of(journal: Path, index: str) -> list[int]:
    """All pages of an index."""
    root = root_of(journal, index)
    page = journal.read_bytes()[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    cells = [
        int.from_bytes(page[at : at + 2], "big")
        for at in range(12, 12 + 2 * int.from_bytes(page[3:5], "big"), 2)
    ]
    return [root, *(int.from_bytes(page[cell : cell + 4], "big") for cell in cells)]


def root_of(journal: Path, name: str) -> int:
    connection = sqlite3.connect(journal)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    connection.close()
    return int(root)
