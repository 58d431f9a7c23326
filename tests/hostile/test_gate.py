"""A whole gate among strangers: hostile barcodes through a serial line, hostile texts from its server."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from gated.__main__ import main
from gated.api.simulator import Simulator, Ticket, made_up_event
from gated.control import SOCKET, ask
from tests.gate import GateProcess, Line
from tests.hostile.words import HOSTILE, PRINTABLE, TIMES, UNPRINTABLE, harmless

TYPES = {f"TYPE{number:02}": text for number, text in enumerate(HOSTILE.values())}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateProcess]:
    event = made_up_event(extra=40)
    event.service.name = "".join(UNPRINTABLE.values())
    for barcode, text in TYPES.items():
        event.add_ticket(Ticket(barcode, ticket_type=text, subtitle=text, section=text, row=text, seat=text))
    with (
        Simulator(event) as server,
        GateProcess(tmp_path_factory.mktemp("gate"), server.url) as process,
    ):
        process.wait_downloaded()
        yield process


def asked(gate: GateProcess, *arguments: str) -> tuple[int, str]:
    """What a command says, for people and for programs."""
    command, *rest = arguments
    people = CliRunner().invoke(main, [command, "--config", str(gate.config), "--", *rest])
    programs = CliRunner().invoke(main, [command, "--json", "--config", str(gate.config), "--", *rest])
    assert harmless(people.output)
    assert programs.stdout.isascii()
    for line in programs.stdout.splitlines():
        json.loads(line)
    assert people.exit_code == programs.exit_code
    return people.exit_code, people.output


def memory_kb(gate: GateProcess) -> int:
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_hostile_barcodes_open_nothing_and_are_told_of_in_lines_of_json(gate: GateProcess) -> None:
    watch = ask(gate.folder / "state" / SOCKET, "watch")
    assert [next(watch)["what"] for _ in range(2)] == ["view", "view"]
    for text in PRINTABLE.values():
        assert gate.scan(text)["verdict"] == "DENY"
        exit_status, said = asked(gate, "explain", text)
        assert (exit_status, "no ticket has this barcode" in said) == (0, True)
    for text in UNPRINTABLE.values():
        gate.entry.send(text.encode() + b"\r")
        assert asked(gate, "explain", text)[0] == 1
    gate.entry.send(b"\xff\xfe\xed\xa0\x80\r" + b"x" * 4000 + b"\r")
    assert gate.wait("scan", lane="in")["reason"] == "malformed"
    gate.entry.send(b"GATED000001\r")
    gate.wait("scan", lane="in", verdict="ADMIT")
    gate.wait("passage", lane="in")
    before = [next(watch)]
    while not (before[-1]["what"] == "scan" and before[-1]["verdict"] == "ADMIT"):
        before.append(next(watch))
    released = [each for each in before if each["what"] == "barrier" and each["released"]]
    assert len(released) == 1  # the ticket's
    assert [line for line in gate.seen if line["event"] == "not json"] == []
    assert all(raw.decode().removesuffix("\n").isprintable() for raw in gate.raw)
    assert all(raw.startswith(b"{") for raw in gate.raw)


def test_what_a_server_calls_its_tickets_and_itself_is_only_shown(gate: GateProcess) -> None:
    for barcode, text in TYPES.items():
        exit_status, said = asked(gate, "explain", barcode)
        assert (exit_status, said.startswith("Admitted: valid")) == (0, True)
        if text.isprintable():
            assert text in said
    exit_status, said = asked(gate, "status")
    assert exit_status == 0
    assert "service  \\x1b[2J\\x1b[H" in said
    assert asked(gate, "outbox")[0] == asked(gate, "sync")[0] == 0
    assert all(raw.decode().removesuffix("\n").isprintable() for raw in gate.raw)


@contextmanager
def pouring(line: Line, data: bytes) -> Iterator[None]:
    """Sends the same again and again, as fast as it is taken."""
    pouring_on = threading.Event()

    def pour() -> None:
        while not pouring_on.is_set():
            line.send(data)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        pouring_on.set()
        thread.join()


NOISES = {
    "noise": random.Random(1).randbytes(65_536),
    "short frames": b"\x07\r" * 10_000,
    "no end": b"x" * 65_536,
}


@pytest.mark.parametrize("data", NOISES.values(), ids=NOISES)
def test_a_line_full_of_noise_keeps_no_other_lane_waiting_and_takes_no_memory(
    gate: GateProcess, data: bytes
) -> None:
    memory, told = memory_kb(gate), len(gate.raw)
    began = time.monotonic()
    with pouring(gate.exit, data):
        time.sleep(0.3 * TIMES)
        scan = gate.scan("GATED-EXPIRED")
        assert asked(gate, "status")[0] == 0
    lasted = time.monotonic() - began
    assert scan["reason"] == "expired"
    assert scan["took_ms"] < 1000  # it was five thousand
    assert memory_kb(gate) - memory < 8_000
    assert len(gate.raw) - told < 20 + 10 * lasted
    gate.exit.send(b"\r")  # the end of what was under way


def test_after_the_noise_the_line_is_read_as_before(gate: GateProcess) -> None:
    """What comes within the second of the last noise is among the reads that are ignored."""
    until = time.monotonic() + 10
    while not (told := [line for line in gate.seen if line.get("barcode") == "N…ET"]):
        assert time.monotonic() < until
        gate.exit.send(b"NOT-A-TICKET\r")
        time.sleep(0.1)
    assert told[0]["code"] == 230
