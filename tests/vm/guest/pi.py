"""The hands and eyes of a test inside the virtual Pi: scanner, pins, the gate's log, the API's simulator.

Everything is seen from outside the program under test: levels by the kernel's own trace, the log by the
journal, what was uploaded by the server. Times are CLOCK_MONOTONIC seconds, the same clock for all of them.
"""

import json
import os
import re
import subprocess
import termios
import threading
import time
import tty
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

CHIP = Path("/sys/devices/platform/gpio-sim.0")
TRACE = Path("/sys/kernel/tracing/trace_pipe")
UDC = Path("/sys/kernel/config/usb_gadget/scanner/UDC")
KEYBOARD = Path("/dev/input/by-id/usb-Virtual_Barcode_Scanner_SN1-event-kbd")
SERIAL = Path("/dev/serial/by-id/usb-Virtual_Barcode_Scanner_SN1-if01")

# USB HID Usage Tables, keyboard page: letters from 4, digits 1 to 9 from 30 with 0 at 39, Enter 40, minus 45.
USAGES = {letter: 4 + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
USAGES |= {digit: 30 + n for n, digit in enumerate("1234567890")}
USAGES |= {"\n": 40, "-": 45}
LEFT_SHIFT = 2
HID, CDC = 3, 2  # USB-IF class codes, of interfaces
KEY_S = 0.004  # between two reports; real scanners take 2 to 10 ms a character

T = TypeVar("T")


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

    def type(self, barcode: str) -> float:
        """As a keyboard, with Enter at the end."""
        with open("/dev/hidg0", "wb", buffering=0) as keyboard:
            for character in barcode + "\n":
                shift = LEFT_SHIFT if character.isupper() else 0
                at = time.monotonic()
                keyboard.write(bytes([shift, 0, USAGES[character.lower()], 0, 0, 0, 0, 0]))
                time.sleep(KEY_S)
                keyboard.write(bytes(8))
                time.sleep(KEY_S)
        return at

    def send(self, barcode: str) -> float:
        """As a serial port, with a carriage return at the end."""
        port = os.open("/dev/ttyGS0", os.O_RDWR | os.O_NOCTTY)
        try:
            tty.setraw(port, termios.TCSANOW)
            at = time.monotonic()
            os.write(port, barcode.encode() + b"\r")
            termios.tcdrain(port)
        finally:
            os.close(port)
        return at

    def detach(self, usb_class: int) -> None:
        """Takes one of the two away from the bus, and leaves the other: 3 what types, 2 what sends."""
        interface = self._interface(usb_class)
        (interface / "authorized").write_text("0")
        device = KEYBOARD if usb_class == HID else SERIAL
        wait_for("detached scanner", lambda: not device.exists(), within=20)

    def attach(self, usb_class: int) -> None:
        """Brings it back."""
        interface = self._interface(usb_class)
        (interface / "authorized").write_text("1")
        Path("/sys/bus/usb/drivers_probe").write_text(interface.name)
        device = KEYBOARD if usb_class == HID else SERIAL
        wait_for("attached scanner", device.exists, within=20)

    def _interface(self, usb_class: int) -> Path:
        classes = Path("/sys/bus/usb/devices").glob("*:*/bInterfaceClass")
        [found] = [path.parent for path in classes if int(path.read_text(), 16) == usb_class]
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
    """What gated logged, as it logs it: each entry is the event's JSON, with ``at`` added."""

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
                self.events.append(event | {"at": int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6})

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

    def is_active(self, unlike: int) -> bool:
        """Whether a process other than that one has said that it is ready."""
        shown = run("systemctl", "show", "--property", "ActiveState,MainPID", self.name).stdout.split()
        return "ActiveState=active" in shown and f"MainPID={unlike}" not in shown
