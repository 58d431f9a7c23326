"""The simulator out of process: its command line, its own endpoints, and what it may import."""

import ast
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import gated.api.simulator as package
from gated.api.simulator import Simulator, made_up_event

ALLOWED = sys.stdlib_module_names | {"msgspec"}


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize(
    "path", sorted(Path(package.__file__).parent.glob("*.py")), ids=lambda path: path.name
)
def test_simulator_imports_nothing_of_gated_but_itself(path: Path) -> None:
    for name in imports(path.read_text()):
        assert name.startswith("gated.api.simulator.") or name.split(".")[0] in ALLOWED, name


def call(url: str, method: str = "GET", body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data=data, method=method), timeout=5) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """The address of a simulator in a process of its own."""
    command = [sys.executable, "-m", "gated.api.simulator", "--port", "0", "--tickets", "1000"]
    with subprocess.Popen([*command, "--sync-interval", "20"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        assert first_line.startswith("listening http://127.0.0.1:")
        assert first_line.endswith("/scanapi/v2.0\n")
        yield first_line.split()[1].removesuffix("/scanapi/v2.0")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_process_serves_as_many_tickets_as_asked(running: str) -> None:
    state = call(f"{running}/simulator/state")

    assert state["tickets"] == 1000 + len(made_up_event().tickets)
    assert (state["uploaded"], state["movements"]) == ([], [])


def test_fault_planned_over_http_strikes_and_is_counted(running: str) -> None:
    call(f"{running}/simulator/faults", "POST", {"endpoint": "login", "fault": "status_503", "times": 1})

    with pytest.raises(HTTPError, match="503"):
        call(f"{running}/scanapi/v2.0/userlogin", "POST", {})
    requests = call(f"{running}/simulator/state")["requests"]
    assert isinstance(requests, dict)
    assert requests["login"] == 1


def test_faults_are_forgotten_over_http(running: str) -> None:
    call(f"{running}/simulator/faults", "POST", {"endpoint": "any", "fault": "status_503", "times": 99})
    call(f"{running}/simulator/faults", "DELETE")

    with pytest.raises(HTTPError, match="401"):
        call(f"{running}/scanapi/v2.0/userlogin", "POST", {})


@pytest.fixture
def here() -> Iterator[Simulator]:
    with Simulator(made_up_event()) as simulator:
        yield simulator


def admin(simulator: Simulator, path: str, body: object) -> None:
    call(simulator.url.replace("/scanapi/v2.0", f"/simulator/{path}"), "POST", body)


def test_organisers_work_can_be_done_over_http(here: Simulator) -> None:
    tickets = here.event.tickets
    admin(here, "tickets", {"action": "add", "barcode_id": "NEW", "fields": {"price": 3}})
    admin(here, "tickets", {"action": "cancel", "barcode_id": "GATED-VIP"})
    admin(here, "tickets", {"action": "reset", "barcode_id": "GATED-USED"})
    admin(here, "tickets", {"action": "change", "barcode_id": "GATED-CHILD", "fields": {"row": "9"}})
    admin(here, "tickets", {"action": "remove", "barcode_id": "GATED-OUT"})

    assert tickets["NEW"].price == 3
    assert tickets["GATED-VIP"].is_canceled == 1
    assert tickets["GATED-USED"].remaining_scans == 1
    assert tickets["GATED-CHILD"].row == "9"
    assert "GATED-OUT" not in tickets


def test_habits_can_be_set_over_http(here: Simulator) -> None:
    admin(here, "habits", {"times": "iso", "permissions": ["checkin"]})

    assert (here.habits.times, here.habits.permissions) == ("iso", ("checkin",))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("tickets", {"action": "cancel", "barcode_id": "NOBODY"}),
        ("tickets", {"action": "add", "barcode_id": "GATED-VIP"}),
        ("tickets", {"action": "shred", "barcode_id": "GATED-VIP"}),
        ("faults", {"endpoint": "any", "fault": "earthquake"}),
        ("habits", {"times": "sundial"}),
    ],
)
def test_what_cant_be_done_over_http_is_400(here: Simulator, path: str, body: object) -> None:
    with pytest.raises(HTTPError, match="400"):
        admin(here, path, body)
