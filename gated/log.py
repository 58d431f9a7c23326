"""The log: one JSON object a line on standard output, colours on a terminal; set up once.

- Under systemd each line begins with its priority (sd-daemon(3)).
- A thread writes the lines, so that a slow journal never holds up a scan; when it falls far behind, lines are
  dropped, and counted.
- Nothing in a value can break a line, or make journalctl hide it. Barcodes come in masked.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from queue import Full, Queue
from typing import Any, BinaryIO, TextIO

import msgspec
import structlog

from gated.core.plain import plain

# Lines that may wait for a slow reader: about 2 MB.
_WAITING = 10_000
# So many seconds a slow reader may hold up the end of gated.
_FLUSH_WITHIN = 1.0
# sd-daemon(3); never critical or above: journald would sync the disk for each of them.
_PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>"}
_ERROR = b"<3>"
# JSON escapes what is below a blank. It leaves delete and the C1 controls, for which journalctl shows "blob
# data" in place of the line; line ends of Unicode; and what turns the direction of text or hides some of it.
_PERHAPS_UNSEEN = re.compile("[^ -~]")

Event = MutableMapping[str, Any]


def set_up(out: BinaryIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Sends gated's log, and the libraries' warnings, to ``out``, unbuffered (standard output)."""
    # Unbuffered: at exit the interpreter waits for the lock of a buffered file that a blocked thread holds.
    out = out or open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    os.set_blocking(out.fileno(), True)  # a terminal may have been left otherwise
    pump = _Pump(out)
    atexit.register(pump.flush)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_for_people() if out.isatty() else _for_programs(under_journal=_is_journal(out, environment))),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: pump,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed


def alive() -> bool:
    """Whether what is logged is written, if it was set up to be."""
    pump = structlog.get_config()["logger_factory"]()
    return not isinstance(pump, _Pump) or pump.alive


def get(part: str) -> Any:
    """A logger for one part of gated."""
    return structlog.get_logger(part=part)


def masked(barcode: str) -> str:
    """Enough of a barcode to recognise it beside the ticket, too little to make one: a third at most."""
    head, tail = min(2, len(barcode) // 8), min(4, len(barcode) // 5)
    return f"{barcode[:head]}…{barcode[len(barcode) - tail :]}"


def _is_journal(out: BinaryIO, environment: Mapping[str, str]) -> bool:
    """Whether ``out`` is the journal that systemd gave us, and was not redirected (systemd.exec(5))."""
    status = os.fstat(out.fileno())
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _for_people() -> list[Any]:
    renderer = structlog.dev.ConsoleRenderer(
        repr_native_str=True,  # quoted: a value may be several lines
        exception_formatter=_traceback,  # its own would show the variables as well, secrets among them
    )
    return [renderer, lambda _, __, text: text.encode(errors="replace")]


def _traceback(out: TextIO, exc_info: Any) -> None:
    for line in "".join(traceback.format_exception(*exc_info)).split("\n"):
        out.write("\n" + plain(line))


def _for_programs(*, under_journal: bool) -> list[Any]:
    return [structlog.processors.format_exc_info, _line_of(under_journal=under_journal)]


def _line_of(*, under_journal: bool) -> Callable[[object, str, Event], bytes]:
    def render(_: object, level: str, event: Event) -> bytes:
        line = _json({"event": event.pop("event"), **event})
        return _PRIORITIES.get(level, _ERROR) + line if under_journal else line

    return render


def _json(event: Event) -> bytes:
    try:
        line = msgspec.json.encode(event, enc_hook=str)
    except (TypeError, ValueError, RecursionError):  # half a character, or a list that is in itself
        line = msgspec.json.encode({key: _in_words(value) for key, value in event.items()})
    text = line.decode()
    return line if text.isprintable() else _PERHAPS_UNSEEN.sub(_seen, text).encode()


def _seen(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def _in_words(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text.encode(errors="backslashreplace").decode()


class _Pump:
    """Takes lines and writes them on its own thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lines: Queue[bytes] = Queue(_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def msg(self, line: bytes) -> None:
        try:
            self._lines.put_nowait(line + b"\n")
        except Full:
            self._dropped += 1

    debug = info = warning = error = critical = msg

    def flush(self) -> None:
        """Waits until all is written, but not for ever."""
        until = time.monotonic() + _FLUSH_WITHIN
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write_on(self) -> None:
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                self._write(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                get("log").warning("lines_dropped", lines=dropped)
            self._lines.task_done()

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[self._out.write(rest) :]  # a signal may cut a write short


def _thread_failed(how: threading.ExceptHookArgs) -> None:
    name = how.thread.name if how.thread else "?"
    get("thread").error("thread_failed", thread=name, exc_info=how.exc_value)


class _FromLibraries(logging.Handler):
    """What libraries warn of goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        said = record.getMessage()
        getattr(get(record.name), level)("library_warning", said=said, exc_info=record.exc_info)
