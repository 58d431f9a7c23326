"""The simulator on a real socket: HTTP/1.1 with connections kept alive, and faults where they are asked for.

An answer goes out in one piece unless a fault breaks it up. Stopping closes every connection, idle ones too,
so that clients see what they see when a server goes away; starting again takes the same port.
"""

import gzip
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Self

import msgspec

from gated.api.simulator.admin import PREFIX, Admin
from gated.api.simulator.answers import BASE_PATH, Answer, Answers, Request, route
from gated.api.simulator.canned import canned
from gated.api.simulator.event import Event, Movement, Received
from gated.api.simulator.faults import Endpoint, Fault, Faults, Planned
from gated.api.simulator.wire import Habits, info

# A million tickets' worth of uploads is far below; more is a client gone wrong.
LARGEST_BODY = 64 * 1024 * 1024

# Pieces in which a slow body is sent: enough for a client's read time-out to start anew with each.
DRIP_PIECES = 20

# How long stopping may take, in seconds: short, since tests stop many simulators.
STOPS_WITHIN_S = 0.01


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulator: "Simulator") -> None:
        self.simulator = simulator
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Connection)

    def server_bind(self) -> None:
        # HTTPServer asks the name service for the host's name here, which takes seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def close_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            self._connections.discard(request)
        super().close_request(request)

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may go away; our own bugs may not
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in tuple(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by the other side or its own thread meanwhile


class _Connection(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered: status, headers and body leave in one piece

    def log_message(self, *_: object) -> None:
        """Says nothing; the simulator counts its requests instead."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._write(Answer(413, msgspec.json.encode(info("Send less, and say how much."))))
            return
        request = Request(self.command, self.path, self.headers, self.rfile.read(int(length)))
        if request.path.startswith(PREFIX):
            self._serve_admin(request)
        else:
            self._serve_api(request)

    def _serve_admin(self, request: Request) -> None:
        if ip_address(self.client_address[0]).is_loopback:
            self._write(self.server.simulator.respond_admin(request))
        else:
            self._write(Answer(403, msgspec.json.encode(info("On loopback only."))))

    def _serve_api(self, request: Request) -> None:
        answer, planned = self.server.simulator.respond(request)
        if planned is None:
            self._write(answer)
        else:
            self._write_faulty(answer, planned)

    def _write_faulty(self, answer: Answer, planned: Planned) -> None:
        match planned.fault:
            case Fault.TIMEOUT | Fault.TIMEOUT_AFTER:
                self.server.stopping.wait(planned.seconds)
                self.close_connection = True
            case Fault.CLOSED_BEFORE | Fault.CLOSED_AFTER:
                self.close_connection = True
            case Fault.HEADERS_ONLY:
                self._write_head(answer)
                self.close_connection = True
            case Fault.HALF_BODY:
                self._write_head(answer)
                self.wfile.write(answer.body[: len(answer.body) // 2])
                self.close_connection = True
            case Fault.SLOW_DRIP:
                self._write_slowly(answer, planned.seconds)
            case _:
                self._write(answer)

    def _write_slowly(self, answer: Answer, seconds: float) -> None:
        self._write_head(answer)
        size = max(1, -(-len(answer.body) // DRIP_PIECES))
        for start in range(0, len(answer.body), size):
            self.wfile.flush()
            self.server.stopping.wait(seconds / DRIP_PIECES)
            self.wfile.write(answer.body[start : start + size])

    def _write(self, answer: Answer) -> None:
        if self.server.simulator.habits.gzip and "gzip" in self.headers.get("Accept-Encoding", ""):
            compressed = gzip.compress(answer.body, compresslevel=1)
            answer = Answer(answer.status, compressed, (*answer.headers, ("Content-Encoding", "gzip")))
        self._write_head(answer)
        self.wfile.write(answer.body)

    def _write_head(self, answer: Answer) -> None:
        simulator = self.server.simulator
        self.send_response_only(answer.status)
        if not simulator.habits.no_date_header:
            self.send_header("Date", formatdate(simulator.now(), usegmt=True))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


class Simulator:
    """A server of the Ticket Scan API for one event. As a context manager it starts and stops.

    ``port`` 0 takes a free one and keeps it through later starts. ``clock`` gives epoch seconds; every time
    the server knows is that clock's plus ``habits.clock_offset_s``.
    """

    def __init__(  # noqa: PLR0913 - all but the event are named and have defaults
        self,
        event: Event,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        username: str = "gate",
        password: str = "secret",  # noqa: S107 - a made-up user of a made-up event
        clock: Callable[[], float] = time.time,
        habits: Habits | None = None,
    ) -> None:
        self.event = event
        self.faults = Faults()
        self._clock = clock
        self._answers = Answers(event, username, password, self.now, habits=habits or Habits())
        self._admin = Admin(self._answers, self.faults)
        self._address = (host, port)
        self._listener: _Listener | None = None
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        event.clock = self.now

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens and answers, in threads of its own. Raises OSError if the port is taken."""
        self._listener = _Listener(self._address, self)
        self._address = (self._address[0], self._listener.server_port)
        self._answers.url = self.url
        threading.Thread(
            target=self._listener.serve_forever, args=(STOPS_WITHIN_S,), name="simulator", daemon=True
        ).start()

    def stop(self) -> None:
        """Closes the port and every connection. What came in is kept. Does nothing if it is stopped."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    @property
    def url(self) -> str:
        """The API's base address, without a slash at the end. Has a port once it has been started."""
        host, port = self._address
        return f"http://{host}:{port}{BASE_PATH}"

    @property
    def habits(self) -> Habits:
        """The server's habits; they may be replaced while it runs."""
        return self._answers.habits

    @habits.setter
    def habits(self, habits: Habits) -> None:
        self._answers.habits = habits

    @property
    def uploaded(self) -> list[Received]:
        """Every uploaded row kept so far, oldest first."""
        return self.event.received

    @property
    def checkins(self) -> list[Movement]:
        """Every check-in counted so far, direct or uploaded, oldest first."""
        return [movement for movement in self.event.movements if movement.checked_in]

    @property
    def requests(self) -> dict[str, int]:
        """How many requests each endpoint has had, faults included."""
        with self._lock:
            return {endpoint: self._counts[endpoint] for endpoint in Endpoint if endpoint is not Endpoint.ANY}

    def now(self) -> float:
        """The server's time, epoch seconds."""
        return self._clock() + self.habits.clock_offset_s

    def revoke_tokens(self) -> None:
        """Makes every token issued so far invalid, as a change of the user's password does."""
        self._answers.tokens.revoke_all()

    def respond(self, request: Request) -> tuple[Answer, Planned | None]:
        """Counts and carries out a request to the API; the fault, if any, says how to send the answer."""
        endpoint = route(request)[0]
        with self._lock:
            self._counts[endpoint] += 1
        planned = self.faults.take(endpoint)
        if planned is None:
            return self._answers.answer(request), None
        done = self._answers.answer(request) if planned.fault.work_done else Answer(200, b"")
        return canned(planned) or done, planned

    def respond_admin(self, request: Request) -> Answer:
        """Carries out a request to the simulator's own endpoints."""
        return self._admin.answer(request, self.requests)
