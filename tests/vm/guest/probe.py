"""Runs under the gate's own unit file in place of gated, and says what its sandbox allows: one JSON object.

Each value is what came of it: "yes", or the error's name.
"""

import ctypes
import importlib
import json
import mmap
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

ADJ_FREQUENCY = 2  # linux/timex.h


def adjtimex(modes: int) -> None:
    """Reads the kernel's clock state, or with ``modes`` sets it."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = (ctypes.c_uint * 128)(modes)
    if libc.adjtimex(state) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


def call_back() -> None:
    """C calls a function of ours: memory to run code from, made without memory to write and run."""
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)()


def claim_a_pin() -> None:
    lgpio = importlib.import_module("lgpio")
    chip = lgpio.gpiochip_open(0)
    lgpio.gpio_claim_output(chip, 40, 0)
    lgpio.gpiochip_close(chip)


def grab_the_keyboard() -> None:
    evdev = importlib.import_module("evdev")
    with evdev.InputDevice("/dev/input/by-id/usb-Virtual_Barcode_Scanner_SN1-event-kbd").grab_context():
        pass


def open_the_serial_port() -> None:
    serial = importlib.import_module("serial")
    serial.Serial("/dev/serial/by-id/usb-Virtual_Barcode_Scanner_SN1-if01", exclusive=True).close()


def seal() -> None:
    aead = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
    aead.ChaCha20Poly1305(bytes(32)).encrypt(bytes(12), b"text", None)


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "yes"


ATTEMPTS: dict[str, Callable[[], object]] = {
    "read the kernel's clock state": lambda: adjtimex(0),
    "call back from C": call_back,
    "claim a pin": claim_a_pin,
    "grab the keyboard": grab_the_keyboard,
    "open the serial port": open_the_serial_port,
    "decode JSON": lambda: importlib.import_module("msgspec").json.decode(b"{}"),
    "seal": seal,
    "read the password": lambda: Path(os.environ["CREDENTIALS_DIRECTORY"], "api-password").read_text(),
    "write its state": lambda: Path("/var/lib/gated/probe").write_text(""),
    "open an internet socket": lambda: socket.socket(socket.AF_INET).close(),
    "set the kernel's clock state": lambda: adjtimex(ADJ_FREQUENCY),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "read the password's file": lambda: Path("/etc/gated/api-password").read_text(),
    "write its config": lambda: Path("/etc/gated/probe").write_text(""),
    "write its program": lambda: Path("/opt/gated/probe").write_text(""),
    "map memory to write and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK).close(),
    "open the disk": lambda: Path("/dev/vda").open("rb").close(),
}

print(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}), flush=True)
