"""The log: one JSON object a line on standard output, colours on a terminal; set up once.

Under systemd each line begins with its priority (sd-daemon(3)). A thread writes the lines, so that a slow
journal never holds up a scan; when it falls far behind, lines are dropped. Barcodes come in masked.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from queue import Full, Queue
from typing import Any, BinaryIO

import msgspec
import structlog

# Lines that may wait for a slow reader: about 2 MB.
_WAITING = 10_000
# sd-daemon(3); never critical or above: journald would sync the disk for each of them.
_PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}

Event = MutableMapping[str, Any]


def set_up(out: BinaryIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Sends gated's log, and the libraries' warnings, to ``out`` (standard output)."""
    out = out or sys.stdout.buffer
    first: list[Any] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if out.isatty():
        last: list[Any] = [structlog.dev.ConsoleRenderer()]
        logger: Any = structlog.PrintLogger(sys.stdout)
    else:
        last = [structlog.processors.format_exc_info, _line_of(under_journal="JOURNAL_STREAM" in environment)]
        logger = _Pump(out)
        atexit.register(logger.flush)
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)


def get(part: str) -> Any:
    """A logger for one part of gated."""
    return structlog.get_logger(part=part)


def masked(barcode: str) -> str:
    """Enough of a barcode to recognise it beside the ticket, too little to make one."""
    return f"{barcode[:2]}…{barcode[-4:]}" if len(barcode) > 8 else f"{barcode[:1]}…"


def _line_of(*, under_journal: bool) -> Callable[[object, str, Event], bytes]:
    def render(_: object, level: str, event: Event) -> bytes:
        line = msgspec.json.encode({"event": event.pop("event"), **event}, enc_hook=str)
        return _PRIORITIES.get(level, b"<6>") + line if under_journal else line

    return render


class _Pump:
    """Takes lines and writes them on its own thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lines: Queue[bytes] = Queue(_WAITING)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def msg(self, line: bytes) -> None:
        with contextlib.suppress(Full):
            self._lines.put_nowait(line + b"\n")

    debug = info = warning = error = msg

    def flush(self) -> None:
        """Waits until all is written, for a second at most."""
        until = time.monotonic() + 1
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                self._out.write(line)
                self._out.flush()
            self._lines.task_done()


class _FromLibraries(logging.Handler):
    """What libraries warn of goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(get(record.name), level)("library_warning", said=record.getMessage())
