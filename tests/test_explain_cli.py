"""``gated explain`` and ``gated purge``: a real gate, asked by real commands."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gated.__main__ import main
from gated.api.simulator import Simulator, Ticket, made_up_event
from tests.gate import WITHIN, GateProcess

STOCK = [f"GATED{number:06}" for number in range(1, 41)]


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with Simulator(made_up_event(extra=40)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gate(server: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateProcess]:
    folder = tmp_path_factory.mktemp("gate")
    with GateProcess(folder, server.url, gate='time_zone = "Asia/Tokyo"') as process:
        process.wait_downloaded()
        yield process


def called(gate: GateProcess, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--config", str(gate.config)], prog_name="gated")


def answered(gate: GateProcess, *arguments: str) -> str:
    result = called(gate, *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def everything_written(gate: GateProcess) -> bytes:
    return b"".join(path.read_bytes() for path in (gate.folder / "state").iterdir() if path.is_file())


# explain


def test_a_ticket_is_explained_by_its_barcodes_and_by_the_id_of_its_scan(gate: GateProcess) -> None:
    assert answered(gate, "explain", "8710000123458").startswith("Admitted: valid, 1 entry left.\n")
    gate.scan("8710000123458")
    gate.wait("passage")
    denied = gate.scan("GATED-PRINTED")
    text = answered(gate, "explain", "GATED-PRINTED")
    assert text.startswith("Denied: already scanned at ")
    assert "times of Asia/Tokyo\n" in text.splitlines(keepends=True)[-5]
    assert text.count("decided by this gate") == 2
    by_external = answered(gate, "explain", "8710000123458")
    assert by_external.splitlines()[-5:] == text.splitlines()[-5:]
    of_the_scan = answered(gate, "explain", denied["scan"])
    assert of_the_scan.startswith("Denied at ")
    assert f"id {denied['scan']}\n" in of_the_scan
    assert "gated explain BARCODE" in of_the_scan
    for shown in (by_external, of_the_scan):
        assert "GATED-PRINTED" not in shown


@pytest.mark.parametrize(
    ("barcode", "first"),
    [
        ("GATED-CANCELED", "Denied: the ticket is cancelled."),
        ("GATED-NOTALLOWED", "Denied: the organiser does not allow this ticket."),
        ("GATED-OUT", "Denied: already scanned"),
        (
            "NOBODY-KNOWS-ME",
            "The server would be asked. Without its answer: denied, no ticket has this barcode.",
        ),
        (
            "0198a2b4-0000-7000-8000-000000000000",
            "The server would be asked. Without its answer: denied, no ticket has this barcode.",
        ),
    ],
)
def test_the_first_line_is_the_answer(gate: GateProcess, barcode: str, first: str) -> None:
    assert answered(gate, "explain", barcode).startswith(first)
    assert gate.status()["store"]["outbox"]["check_ins"] == 0


def test_programs_get_an_explanation_as_data_without_a_barcode(gate: GateProcess) -> None:
    text = answered(gate, "explain", "8710000123458", "--json")
    data = json.loads(text)
    assert [ruling["direction"] for ruling in data["rulings"]] == ["entry", "exit"]
    assert data["mirrored"]["ticket"]["checkin_allowed"] is True
    assert "GATED-PRINTED" not in text
    assert "8710000123458" not in text


@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "empty"), ("  ", "empty"), ("x" * 129, "too long"), ("a\x07b", "not printable")],
    ids=["nothing", "blanks", "too long", "a bell"],
)
def test_what_is_no_barcode_is_told_so(gate: GateProcess, typed: str, said: str) -> None:
    result = called(gate, "explain", typed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"gated: that is no barcode: {said}")


@pytest.mark.parametrize("command", [["explain", "T1"], ["purge", "--yes"]], ids=" ".join)
def test_without_a_running_gate_that_is_said_with_a_hint(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "gated.toml"
    config.write_text(f'[gate]\nstate_dir = "{tmp_path}"\n')
    result = CliRunner().invoke(main, [*command, "--config", str(config)], prog_name="gated")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("gated: no gate answers at ")


# purge


def test_after_a_purge_nothing_is_left_and_the_tickets_come_anew(
    gate: GateProcess, server: Simulator
) -> None:
    gate.scan(STOCK[0])
    gate.wait("passage")
    assert called(gate, "mode", "in", "free").exit_code == 0
    server.event.add_ticket(Ticket("SOLD-LATER"))
    told = answered(gate, "purge", "--yes", "--why", "it is over").splitlines()
    assert told[0].endswith("uploaded")
    assert told[1] == "purged: this gate knows no ticket and no scan, and downloads the tickets anew"
    assert gate.wait("purged")["why"] == "it is over"
    gate.wait_downloaded()
    assert "SOLD-LATER" not in everything_written(gate).decode("latin-1")
    assert "Scans here" not in answered(gate, "explain", STOCK[0])
    assert gate.scan("SOLD-LATER")["code"] == 100
    assert gate.status()["lanes"][0]["mode"] == "free"
    assert called(gate, "mode", "in", "controlled").exit_code == 0


def test_where_there_is_no_terminal_a_purge_must_be_meant(gate: GateProcess) -> None:
    result = called(gate, "purge")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes says that it is meant" in result.stderr


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [("Test gate", 0, "purged: "), ("Other gate", 1, "gated: that is not 'Test gate': nothing was purged")],
    ids=["its name", "another name"],
)
def test_at_a_terminal_a_purge_asks_for_the_name_of_the_gate(
    gate: GateProcess, typed: str, status: int, said: str
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gated", "purge", "--config", str(gate.config)]
    os.write(ours, f"{typed}\n".encode())
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=WITHIN, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == status, done
    assert "All tickets and scans of 'Test gate' go." in done.stdout + done.stderr
    assert said in done.stdout + done.stderr


def test_scans_that_the_server_has_not_got_keep_a_gate_from_being_purged(
    gate: GateProcess, server: Simulator
) -> None:
    server.stop()
    gate.scan(STOCK[1])
    gate.exit.send(STOCK[2].encode() + b"\r")
    gate.wait("scan", lane="out")
    result = called(gate, "purge", "--yes")
    assert result.exit_code == 1
    assert result.stdout.startswith("the upload failed: ")
    assert result.stderr.startswith("gated: scans still wait for the server: 2\n")
    assert "--lose-outbox" in result.stderr
    assert "already scanned" in answered(gate, "explain", STOCK[1])
    lines = called(gate, "purge", "--yes", "--lose-outbox", "--json").stdout.splitlines()
    assert json.loads(lines[-1]) == {"purged": True, "lost": 2}
    assert answered(gate, "explain", STOCK[1]).startswith("Denied: not all tickets are downloaded yet.")
    assert STOCK[1].encode() not in everything_written(gate)
