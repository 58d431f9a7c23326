"""The hands and eyes of a test inside the virtual Pi: scanner, pins, the gate's log, the API's simulator.

Everything is seen from outside the program under test: levels by the kernel's own trace, the log by the
journal, what was uploaded by the server. Times are CLOCK_MONOTONIC seconds, the same clock for all of them.
"""

import json
import os
import re
import signal
import socket
import subprocess
import termios
import threading
import time
import traceback
import tty
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

CONFIG = Path("/etc/gated/gated.toml")
PASSWORD = Path("/etc/gated/api-password")
CHIP = Path("/sys/devices/platform/gpio-sim.0")
TRACE = Path("/sys/kernel/tracing/trace_pipe")
UDC = Path("/sys/kernel/config/usb_gadget/SN1/UDC")
KEYBOARD = Path("/dev/input/by-id/usb-Virtual_Barcode_Scanner_SN1-event-kbd")
SECOND_KEYBOARD = Path("/dev/input/by-id/usb-Virtual_Barcode_Scanner_SN2-event-kbd")
SERIAL = Path("/dev/serial/by-id/usb-Virtual_Barcode_Scanner_SN1-if01")

# Which interface of which USB device each is; USB-IF's class codes: 03 is HID, 02 a CDC port.
USB = Path("/sys/bus/usb/devices")
INTERFACES = {KEYBOARD: ("SN1", "03"), SERIAL: ("SN1", "02"), SECOND_KEYBOARD: ("SN2", "03")}

# The lanes of gated.toml: where each one's barcodes go, and its release.
FIRST_HID, SECOND_HID, PORT = "/dev/hidg0", "/dev/hidg1", "/dev/ttyGS0"
RELEASES = {"entry": 17, "exit": 22, "side": 23}
OUTPUTS = {17: 0, 22: 1, 23: 0, 5: 0, 6: 0}  # and the level at which each is safe

# USB HID Usage Tables, keyboard page: letters from 4, digits 1 to 9 from 30 with 0 at 39, Enter 40, minus 45.
USAGES = {letter: 4 + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
USAGES |= {digit: 30 + n for n, digit in enumerate("1234567890")}
USAGES |= {"\n": 40, "-": 45}
LEFT_SHIFT = 2
PATIENT = "TimeoutStartSec=300"  # the unit's own is for a Pi, not for an emulated one on a busy host
KEY_S = 0.004  # between two reports; real scanners take 2 to 10 ms a character

T = TypeVar("T")
servers: list["Simulator"] = []
"""The API's servers so far; the last one answers, unless it was stopped."""
Fact = dict[str, Any]


def run(*command: str, limit: float = 120) -> subprocess.CompletedProcess[str]:
    """A command, its output and its status; a failure is for the caller to judge."""
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)


def wait_for(what: str, look: Callable[[], T | None], within: float) -> T:
    """What ``look`` finds, once it finds something true; TimeoutError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {within} s")
        time.sleep(0.02)
    return found


def tell(name: str, step: Callable[[], Fact], limit: int, journal: "Journal | None" = None) -> None:
    """Prints the step's fact as one JSON object, or the error that ended it; ``limit`` is seconds."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"the step took more than {limit} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit)
    began = time.monotonic()
    try:
        fact = step()
    except Exception:  # whatever it is, the steps after it are worth a try
        fact = {"error": traceback.format_exc(), "journal": journal.texts[-20:] if journal else []}
    finally:
        signal.alarm(0)
    print(json.dumps({"step": name, "seconds": round(time.monotonic() - began, 1)} | fact), flush=True)


def change_unit(*lines: str) -> None:
    """Until the next call these lines stand in the unit's section ``[Service]``, after its own."""
    override = Path("/run/systemd/system/gated.service.d/test.conf")
    override.parent.mkdir(parents=True, exist_ok=True)
    override.write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl", "daemon-reload")


def set_up(tickets: int, *changes: str) -> Fact:
    """Installs gated, starts it, and brings it the tickets of an API that is started first.

    ``changes`` are lines for the unit's section ``[Service]``.
    """
    [wheel] = Path.cwd().glob("gated-*.whl")
    installed = run("systemd/install.sh", str(wheel), limit=600)
    CONFIG.write_text(Path("gated.toml").read_text())
    PASSWORD.write_text("secret\n")
    change_unit(PATIENT, *changes)
    servers.append(Simulator(tickets))
    started = run("systemctl", "start", "gated", limit=300)
    synced = run("gated", "sync", "--full")
    return {
        "installed": installed.returncode,
        "started": started.returncode,
        "synced": synced.returncode,
        "said": installed.stderr + started.stderr + synced.stderr,
    }


def ask(command: str, **arguments: str) -> list[Fact]:
    """What the running gate answers to a command, without a second Python that takes seconds to start."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect("/run/gated/control.sock")
        channel.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        with channel.makefile() as lines:
            answers = [json.loads(line) for line in lines]
    if "error" in answers[-1]:
        raise RuntimeError(f"{command}: {answers[-1]['error']}")
    return [line["answer"] for line in answers[:-1]]


def pull(pin: int, way: str) -> float:
    """What the world outside does to an input, ``up`` or ``down``; returns the moment before."""
    [line] = CHIP.glob(f"gpiochip*/sim_gpio{pin}/pull")
    at = time.monotonic()
    line.write_text(f"pull-{way}")
    return at


class Outputs:
    """The gate's outputs: what they are now, and every change since the start.

    ``safe`` is the level at which each is de-energised, and is when this begins to look.
    """

    def __init__(self, safe: Mapping[int, int]) -> None:
        self._safe = safe
        self._set: list[tuple[float, int, int]] = []
        self.made_inputs: list[tuple[float, int]] = []
        base = next(Path("/sys/class/gpio").glob("gpiochip*/base"))
        self._base = int(base.read_text())
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        pattern = re.compile(r"(\d+\.\d+): gpio_(?:value: (\d+) set +(\d)|direction: (\d+) +in )")
        with TRACE.open() as trace:
            for line in trace:
                if found := pattern.search(line):
                    at, driven, level, freed = found.groups()
                    pin = int(driven or freed) - self._base
                    if pin not in self._safe:
                        continue
                    if freed:
                        self.made_inputs.append((float(at), pin))
                    else:
                        self._set.append((float(at), pin, int(level)))

    def energised(self) -> list[int]:
        """The pins that are not at their safe level, as the world outside sees them."""
        return [pin for pin, safe in self._safe.items() if self._level(pin) != safe]

    def edges(self, since: float = 0) -> list[tuple[float, int, bool]]:
        """When each pin was energised or de-energised."""
        edges, levels = [], dict(self._safe)
        for at, pin, level in list(self._set):
            if levels[pin] != level and at >= since:
                edges.append((at, pin, level != self._safe[pin]))
            levels[pin] = level
        return edges

    def released(self, pin: int, since: float = 0) -> list[float]:
        """When the pin was energised."""
        return [at for at, number, on in self.edges(since) if number == pin and on]

    def relocked(self, pin: int, since: float = 0) -> list[float]:
        """When the pin was de-energised."""
        return [at for at, number, on in self.edges(since) if number == pin and not on]

    def safe_since(self, moment: float) -> float | None:
        """When, from that moment on, all were at their safe levels for the first time."""
        on: set[int] = set()
        for at, pin, energised in self.edges():
            if at >= moment and not on:
                break
            on = on | {pin} if energised else on - {pin}
            if at >= moment and not on:
                return at
        return None if on else moment

    def _level(self, pin: int) -> int:
        return int(next(CHIP.glob(f"gpiochip*/sim_gpio{pin}/value")).read_text())


class Scanner:
    """One USB device that types and sends. Both say when the last character of a barcode left."""

    def read(self, lane: str, barcode: str) -> float:
        """As that lane's scanner does."""
        if lane == "exit":
            return self.send(barcode)
        return self.type(barcode, FIRST_HID if lane == "entry" else SECOND_HID)

    def type(self, barcode: str, device: str = FIRST_HID, key_s: float = KEY_S) -> float:
        """As a keyboard, with Enter at the end; half of a character takes ``key_s`` seconds."""
        for character in barcode + "\n":
            at = time.monotonic()
            self.press(LEFT_SHIFT if character.isupper() else 0, USAGES[character.lower()], device, key_s)
        return at

    def press(self, modifiers: int, usage: int, device: str, key_s: float = KEY_S) -> None:
        """One key, pressed and let go with its modifiers."""
        keyboard = os.open(device, os.O_WRONLY)
        try:
            for report in (bytes([modifiers, 0, usage, 0, 0, 0, 0, 0]), bytes(8)):
                os.write(keyboard, report)
                time.sleep(key_s)
        finally:
            os.close(keyboard)

    def send(self, barcode: str) -> float:
        """As a serial port, with a carriage return at the end."""
        port = os.open(PORT, os.O_RDWR | os.O_NOCTTY)
        try:
            tty.setraw(port, termios.TCSANOW)
            at = time.monotonic()
            os.write(port, barcode.encode() + b"\r")
            termios.tcdrain(port)
        finally:
            os.close(port)
        return at

    def detach(self, device: Path) -> None:
        """Takes one of them away from the bus."""
        self._authorise(device, "0")
        wait_for("detached scanner", lambda: not device.exists(), within=20)

    def attach(self, device: Path) -> None:
        """Brings it back."""
        interface = self._authorise(device, "1")
        Path("/sys/bus/usb/drivers_probe").write_text(interface.name)
        wait_for("attached scanner", device.exists, within=20)

    def _authorise(self, device: Path, yes: str) -> Path:
        serial, usb_class = INTERFACES[device]
        [usb] = (path.parent for path in USB.glob("*/serial") if path.read_text().strip() == serial)
        classes = usb.glob("*:*/bInterfaceClass")
        [found] = (path.parent for path in classes if path.read_text().strip() == usb_class)
        (found / "authorized").write_text(yes)
        return found

    def unplug(self) -> None:
        """Pulls the cable."""
        UDC.write_text("\n")
        wait_for("unplugged scanner", lambda: not KEYBOARD.exists() and not SERIAL.exists(), within=20)

    def plug_in(self) -> None:
        """Puts the cable back."""
        UDC.write_text("dummy_udc.0\n")
        wait_for("scanner", lambda: KEYBOARD.exists() and SERIAL.exists(), within=20)


class Journal:
    """What gated logged, as it logs it: each entry is the event's JSON, with ``at`` and ``pid`` added."""

    def __init__(self, unit: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.texts: list[str] = []
        command = ("journalctl", "--unit", unit, "--follow", "--output", "json", "--lines", "0")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            entry = json.loads(line)
            message = entry["MESSAGE"]
            self.texts.append(str(message))
            try:
                event = json.loads(message)
            except (TypeError, ValueError):
                continue
            if isinstance(event, dict):
                at = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
                self.events.append(event | {"at": at, "pid": int(entry["_PID"])})

    def since(self, moment: float, event: str, **fields: str) -> list[dict[str, Any]]:
        """The events of that name, and of those fields, from that moment on."""
        return [
            entry
            for entry in list(self.events)
            if entry["at"] >= moment
            and entry.get("event") == event
            and all(entry.get(key) == value for key, value in fields.items())
        ]


class Simulator:
    """The Ticket Scan API, on loopback."""

    url = "http://127.0.0.1:8081"

    def __init__(self, tickets: int) -> None:
        command = "/opt/gated/bin/python -m gated.api.simulator --host 127.0.0.1 --port 8081"
        command += f" --username gate --password secret --tickets {tickets}"
        self._process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.banner = self._process.stdout.readline().strip()
        # What it says of each request is not of interest, and a full pipe would stop it.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def state(self) -> dict[str, Any]:
        """What the server knows, its uploads among it."""
        with urllib.request.urlopen(f"{self.url}/simulator/state", timeout=20) as answer:
            state: dict[str, Any] = json.load(answer)
            return state

    def stop(self) -> None:
        """As a server that is gone: connections are refused."""
        self._process.kill()
        self._process.wait()


class Unit:
    """gated as systemd sees it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def do(self, verb: str) -> float:
        """``systemctl`` with that verb; the seconds until it was done. RuntimeError if it failed."""
        began = time.monotonic()
        done = run("systemctl", verb, self.name)
        if done.returncode:
            raise RuntimeError(f"systemctl {verb} {self.name}: {done.stderr.strip()}")
        return round(time.monotonic() - began, 2)

    def show(self, field: str) -> str:
        """One property."""
        return run("systemctl", "show", "--value", "--property", field, self.name).stdout.strip()

    def holds(self, device: Path) -> bool:
        """Whether its main process has that device open."""
        node = os.path.realpath(device)
        try:
            files = list(Path("/proc", self.show("MainPID"), "fd").iterdir())
        except FileNotFoundError:
            return False
        return any(os.path.realpath(file) == node for file in files)

    def process(self, unlike: int) -> int:
        """Its main process; 0 if there is none, or only that one."""
        main = int(self.show("MainPID"))
        return 0 if main == unlike else main
