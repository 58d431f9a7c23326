"""``gated demo``: a whole virtual gate on one machine, real but for its ends.

A simulated API serves a made-up event; pseudo-terminals are the scanners; the pins exist in memory only. What
decides, journals and uploads in between is ``gated run`` itself, in a process and with a configuration of its
own: nothing here knows a rule.
"""

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gated.api.simulator import LATER, Simulator, Ticket, made_up_event
from gated.control import SOCKET, ask
from gated.core.plain import plain
from gated.core.signals import SIGNALS, Lamp, Outcome, for_lamps
from gated.errors import ControlError, GatedError

_START_WITHIN = 20.0  # seconds; the libraries of a Pi's first start come from a cold card
_ANSWER_WITHIN = 5.0
_LAMPS = {Lamp.GREEN: 22, Lamp.RED: 23}

_CONFIG = """
[gate]
name = "Demo gate"
state_dir = "{folder}"

[api]
base_url = "{url}"
username = "gate"
password_file = "{folder}/password"
device_info = "DEVICE_ID:DEMO,MANUFACTURER:X,MODEL:X,OS:X,OS_VERSION:X"

[pins]
factory = "mock"

[[lanes]]
name = "in"
direction = "entry"
scanners = [{{ kind = "serial", device = "{entry}" }}]
release = {{ pin = 17, when_off = "locked", pulse_ms = 300, grant_ms = 1500 }}
lamps = {{ green = 22, red = 23 }}
buzzer = {{ pin = 24 }}

[[lanes]]
name = "out"
direction = "exit"
scanners = [{{ kind = "serial", device = "{exit}" }}]
release = {{ pin = 27, when_off = "locked", pulse_ms = 300, grant_ms = 1500 }}
lamps = {{ green = 5, red = 6 }}
"""

_HELP = """\
Type a number or a barcode to scan it at the entrance; "out" before it scans at the exit.
  net off | net on   take the server away, bring it back        sell     sell the ticket that was unknown
  menu               the tickets again                          server   what the server has been told
  status             what gated says of itself                  quit     end the demo
"""


class Pty:
    """A pseudo-terminal that stands for a serial scanner."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        self.device = os.ttyname(self._theirs)

    def scan(self, barcode: str) -> None:
        """Sends what a scanner sends."""
        os.write(self._ours, barcode.encode() + b"\r")

    def close(self) -> None:
        """Takes the scanner away."""
        os.close(self._ours)
        os.close(self._theirs)


class Demo:
    """The parts of a demo, started and stopped in pairs."""

    def __init__(self, tickets: int, console: Console) -> None:
        self._console = console
        self._folder = Path(tempfile.mkdtemp(prefix="gated-demo-"))
        self._event = made_up_event(tickets)
        self._simulator = Simulator(self._event)
        self._scanners = {"in": Pty(), "out": Pty()}
        self._gate: subprocess.Popen[bytes] | None = None
        self._events: Queue[Mapping[str, Any]] = Queue()

    def __enter__(self) -> "Demo":
        try:
            self._simulator.start()
            self._start_gate()
            self._wait_ready()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends gated, the server and the scanners, and removes what they wrote."""
        if self._gate is not None:
            self._gate.terminate()
            self._gate.wait(timeout=10)
        self._simulator.stop()
        for scanner in self._scanners.values():
            scanner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def scan(self, barcode: str, lane: str = "in") -> bool:
        """Scans at a lane and shows what a visitor would see; False if nothing came of it."""
        self._drain()
        place = f" at the {'entrance' if lane == 'in' else 'exit'}"
        self._console.print(Text.assemble(("\nscan", "bold"), f"     {plain(barcode)}", (place, "dim")))
        self._scanners[lane].scan(barcode)
        answered = False
        for event in self._until_rest(lane):
            answered = answered or event["what"] == "scan"
            self._show(event)
        if not answered:
            self._console.print("[dim]         ignored: the same barcode again, or the lane is busy[/]")
        return answered

    def menu(self) -> None:
        """Shows the tickets one may try."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("", justify="right")
        table.add_column("barcode")
        table.add_column("is")
        for number, (barcode, description) in enumerate(self._event.menu, 1):
            table.add_row(str(number), barcode, description)
        self._console.print(table)

    def obey(self, line: str) -> bool:
        """Does what was typed; False at the end."""
        match line.split():
            case []:
                pass
            case ["quit" | "exit" | "q"]:
                return False
            case ["help" | "?"]:
                self._console.print(_HELP, highlight=False)
            case ["menu"]:
                self.menu()
            case ["net", "off"]:
                self._simulator.stop()
                self._console.print("The server is gone. The gate goes on.")
            case ["net", "on"]:
                self._simulator.start()
                self._console.print("The server is back. What it missed is uploaded within a minute.")
            case ["sell"]:
                self._sell()
            case ["server"]:
                self._show_server()
            case ["status"]:
                self._show_status()
            case ["out", *rest]:
                self.scan(self._barcode(" ".join(rest)), "out")
            case _:
                self.scan(self._barcode(line.strip()))
        return True

    def _barcode(self, typed: str) -> str:
        number = int(typed) if typed.isdecimal() and len(typed) < 4 else 0
        return self._event.menu[number - 1][0] if 1 <= number <= len(self._event.menu) else typed

    def _start_gate(self) -> None:
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text("secret\n")
        path = self._folder / "gated.toml"
        path.write_text(
            _CONFIG.format(
                folder=self._folder,
                url=self._simulator.url,
                entry=self._scanners["in"].device,
                exit=self._scanners["out"].device,
            )
        )
        command = [sys.executable, "-m", "gated", "run", "--config", str(path)]
        with (self._folder / "log").open("wb") as log:
            self._gate = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - our own

    def _wait_ready(self) -> None:
        until = time.monotonic() + _START_WITHIN
        while time.monotonic() < until:
            assert self._gate is not None
            if self._gate.poll() is not None:
                break
            try:
                status = next(ask(self._folder / SOCKET, "status"))
            except ControlError:
                time.sleep(0.05)
                continue
            if status["store"]["complete"] and all(_reads(lane) for lane in status["lanes"]):
                return
            time.sleep(0.05)
        said = (self._folder / "log").read_text(errors="replace")
        raise GatedError(f"gated did not start:\n{said}", hint="Please report this with the lines above.")

    def _watch(self) -> None:
        try:
            for event in ask(self._folder / SOCKET, "watch"):
                self._events.put(event)
        except ControlError:
            self._events.put({"what": "ended", "lane": ""})

    def _drain(self) -> None:
        while not self._events.empty():
            self._events.get_nowait()

    def _until_rest(self, lane: str) -> Iterator[Mapping[str, Any]]:
        """What happens at a lane until it is at rest again, or nothing happens."""
        while True:
            try:
                event = self._events.get(timeout=_ANSWER_WITHIN if lane else 0)
            except Empty:
                return
            if event["lane"] != lane:
                continue
            if event["what"] == "shown" and event["outcome"] in _RESTING:
                return
            yield event

    def _show(self, event: Mapping[str, Any]) -> None:
        match event["what"]:
            case "scan":
                style = "bold green" if event["verdict"] == "ADMIT" else "bold red"
                detail = f"{event['ticket_type']} · {event['origin']} · {event['took_ms']} ms".lstrip(" ·")
                self._console.print(
                    Text.assemble(
                        "verdict  ", (plain(event["message"]), style), (f"   {plain(detail)}", "dim")
                    )
                )
            case "shown":
                self._console.print(Text("lamps    ").append_text(_lamps(Outcome(event["outcome"]))))
            case "barrier":
                released = event["released"]
                self._console.print(f"relay    {'■ on: the barrier is released' if released else '□ off'}")

    def _sell(self) -> None:
        if LATER in self._event.tickets:
            self._console.print(f"{LATER} is sold already.")
            return
        self._event.add_ticket(Ticket(LATER))
        self._console.print(f"{LATER} is sold. The gate has not been told: it will ask.")

    def _show_server(self) -> None:
        for received in self._simulator.uploaded:
            scan = received.scan
            told = f"{scan.checked_in_time}  {scan.barcode_id:16}  {scan.status_message}"
            self._console.print(Text(plain(told)))
        self._console.print(f"{len(self._simulator.uploaded)} scans uploaded")

    def _show_status(self) -> None:
        from gated.show import status_lines

        lines = status_lines(next(ask(self._folder / SOCKET, "status")))
        self._console.print(Text("\n".join(lines)))


_RESTING = frozenset({Outcome.READY, Outcome.OFFLINE, Outcome.NOT_READY, Outcome.DISK_FAILING})


def _reads(lane: Mapping[str, Any]) -> bool:
    return any(scanner["state"] == "reading" for scanner in lane["scanners"].values())


def _lamps(outcome: Outcome) -> Text:
    signal = for_lamps(SIGNALS[outcome], set(_LAMPS))
    lit = dict(signal.lamps)
    text = Text()
    for lamp in _LAMPS:
        text.append("● " if lamp in lit else "○ ", style=lamp if lamp in lit else "dim")
    return text.append(signal.text)


def play(tickets: int, scans: tuple[str, ...]) -> int:
    """Runs the demo; returns an exit status. Raises GatedError if it can't start."""
    for ended in (signal.SIGTERM, signal.SIGHUP):  # a window that is closed: the gate must not stay behind
        signal.signal(ended, lambda number, _: sys.exit(128 + number))
    console = Console(highlight=False)
    console.print("Starting a server, a gate and two scanners …")
    with Demo(tickets, console) as demo:
        if scans:
            answered = [demo.scan(barcode) for barcode in scans]
            return 0 if all(answered) else 1
        demo.menu()
        console.print(f"\n{_HELP}")
        try:
            while demo.obey(console.input("[bold]gate>[/] ")):
                pass
        except (EOFError, KeyboardInterrupt):
            console.print()
    return 0
