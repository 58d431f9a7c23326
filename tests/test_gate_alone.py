"""Gates with a server that is away, slow or late: each test has a gate of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gated.api.simulator import Fault, Simulator, made_up_event
from tests.gate import GateProcess, uploaded


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with Simulator(made_up_event(extra=40)) as simulator:
        yield simulator


def test_a_gate_that_starts_without_the_server_opens_from_its_mirror_and_uploads_later(
    server: Simulator, tmp_path: Path
) -> None:
    with GateProcess(tmp_path, server.url) as gate:
        gate.wait_downloaded()
    server.stop()
    try:
        with GateProcess(tmp_path, server.url) as gate:
            gate.wait_until("status['lanes'][0]['scanners']['entry']['state'] == 'reading'")
            scan = gate.scan("GATED000010")
            assert (scan["verdict"], scan["origin"]) == ("ADMIT", "local")
            gate.wait("passage")
            assert gate.scan("GATED000010")["code"] == 50
            assert gate.scan("UNKNOWN-OFFLINE")["code"] == 40
    finally:
        server.start()
    with GateProcess(tmp_path, server.url) as gate:
        uploaded(server, "GATED000010", [100, 50])
        gate.wait_downloaded()
        assert gate.scan("GATED000010")["code"] == 50


def test_a_fresh_gate_without_the_server_is_not_ready_and_uploads_nothing_of_it(
    server: Simulator, tmp_path: Path
) -> None:
    with GateProcess(tmp_path, "http://127.0.0.1:9/scanapi/v2.0") as gate:
        gate.wait_until("status['lanes'][0]['shown'] == 'not_ready'")
        scan = gate.scan("GATED000020")
        assert (scan["code"], scan["reason"]) == (None, "not_ready")
        assert gate.status()["store"]["outbox"]["others"] == 0


def test_the_direct_strategy_asks_and_falls_back_to_the_mirror_when_the_server_is_slow(
    server: Simulator, tmp_path: Path
) -> None:
    direct = {"gate": 'strategy = "direct"', "api": "direct_timeout_ms = 200"}
    with GateProcess(tmp_path, server.url, **direct) as gate:
        gate.wait_downloaded()
        scan = gate.scan("GATED000030")
        assert (scan["verdict"], scan["origin"]) == ("ADMIT", "direct")
        assert [each.barcode_id for each in server.checkins].count("GATED000030") == 1
        gate.wait("passage")
        assert gate.scan("GATED000030")["code"] == 50
        server.faults.add("checkin", Fault.TIMEOUT, times=2, seconds=1.0)
        for number in (31, 32):
            slow = gate.scan(f"GATED0000{number}")
            assert (slow["verdict"], slow["origin"]) == ("ADMIT", "fallback")
            assert slow["took_ms"] < 1000
            gate.wait("passage")
        at_once = gate.scan("GATED000033")
        assert (at_once["verdict"], at_once["origin"]) == ("ADMIT", "local")


def test_a_guest_whose_gate_was_killed_while_the_server_let_him_in_gets_in_once_afterwards(
    server: Simulator, tmp_path: Path
) -> None:
    patient = {"gate": 'strategy = "direct"', "api": "direct_timeout_ms = 3000"}
    with GateProcess(tmp_path, server.url, **patient) as gate:
        gate.wait_downloaded()
        server.faults.add("checkin", Fault.TIMEOUT_AFTER, seconds=2.0)
        gate.entry.send(b"GATED000034\r")
        until = time.monotonic() + 5
        while "GATED000034" not in {each.barcode_id for each in server.checkins}:
            assert time.monotonic() < until
            time.sleep(0.005)
        gate.process.kill()
        gate.process.wait()
    with GateProcess(tmp_path, server.url, **patient) as gate:
        gate.wait("full_download")  # so that it knows who is in already
        assert gate.scan("GATED000034")["verdict"] == "ADMIT"
        gate.wait("passage")
        assert gate.scan("GATED000034")["code"] == 50


def test_a_gate_stops_when_told_to_and_says_so(server: Simulator, tmp_path: Path) -> None:
    gate = GateProcess(tmp_path, server.url)
    gate.start()
    began = time.monotonic()
    assert gate.stop() == 0
    assert time.monotonic() - began < 5
    assert gate.seen[-1]["event"] == "stopped"


@pytest.mark.parametrize("ended", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_takes_its_gate_with_it(tmp_path: Path, ended: signal.Signals) -> None:
    command = [sys.executable, "-m", "gated", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert any("Type a number" in line for line in demo.stdout)
        assert _running_in(tmp_path)
        demo.send_signal(ended)
        assert demo.wait(20) == 128 + ended
    assert not _running_in(tmp_path)
    assert not list(tmp_path.glob("gated-demo-*"))


def _running_in(folder: Path) -> list[Path]:
    """Processes that were started with a file of that folder."""
    processes = []
    for told in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if str(folder) in told.read_text():
                processes.append(told)
    return processes
