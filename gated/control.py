"""Commands to a running daemon, over a Unix socket in its runtime directory.

One line of JSON asks, ``{"command": …, "arguments": {…}}``; lines of JSON answer, ``{"answer": {…}}`` each,
and the last one is ``{"done": true}`` or ``{"error": …, "hint": …}``. Who may open the socket (root and the
group of gated) may command the gate. That an asker is gone is noticed when there is something to say, so what
it asked for is carried out up to there.
"""

import asyncio
import contextlib
import inspect
import os
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gated import log
from gated.errors import ControlError, GatedError

Answers = AsyncGenerator[Mapping[str, Any], None]
Command = Callable[..., Answers]
"""An asynchronous generator; its keywords are the arguments."""

SOCKET = "control.sock"
_MOST_BYTES = 64 * 1024  # of one question
_PROBE_WITHIN = 1.0  # seconds; the kernel takes a connection at once, unless many wait for a gated that hangs
_VERSIONS = "Perhaps it runs another version than this one: systemctl restart gated"


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class _Line(msgspec.Struct):
    """One line of an answer."""

    answer: dict[str, Any] = {}
    done: bool = False
    error: str | None = None
    hint: str = ""


class ControlServer:
    """Answers commands on the running loop."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._log = log.get("control")
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listens. Raises ControlError if another gated is there, or the place can't be used."""
        check_alone(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._talk, str(self._path), limit=_MOST_BYTES)
            os.chmod(self._path, 0o660)
        except OSError as error:
            raise ControlError(
                f"{self._path}: {error.strerror or error}", hint="Check [gate] state_dir."
            ) from error

    @property
    def alive(self) -> bool:
        """Whether commands reach it: it listens, and the socket has its place."""
        return self._server is not None and self._server.is_serving() and self._path.exists()

    async def restart(self) -> None:
        """Listens anew; talks go on. Raises ControlError as :meth:`start` does."""
        if self._server is not None:
            self._server.close()
        await self.start()

    async def close(self) -> None:
        """Ends all talks and takes the socket away."""
        if self._server is None:
            return
        self._server.close()
        for talk in tuple(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the asker has gone, or gated goes
        except Exception:  # noqa: BLE001 - supervisor: a bug in a command is no reason to end the gate
            self._log.error("command_failed", exc_info=True)
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: Mapping[str, Any]) -> None:
            writer.write(msgspec.json.encode(line, enc_hook=str) + b"\n")
            await writer.drain()

        try:
            answers = self._begin(await _question(reader))
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    await say({"answer": answer})
        except GatedError as error:
            await say({"error": str(error), "hint": error.hint})
        else:
            await say({"done": True})

    def _begin(self, question: _Question) -> Answers:
        command = self._commands.get(question.command)
        if command is None:
            raise ControlError(
                f"{question.command!r} is no command of the gate that runs",
                hint=_VERSIONS,
            )
        try:
            inspect.signature(command).bind(**question.arguments)
        except TypeError as error:
            raise ControlError(f"{question.command}: {error}", hint="Run it with --help.") from error
        return command(**question.arguments)


def check_alone(path: Path) -> None:
    """Raises ControlError if another gated is there: asked before a pin or a database is touched."""
    if path.exists() and _in_use(path):
        raise ControlError(f"{path}: another gated is running", hint="Stop it first: systemctl stop gated")


def ask(path: Path, command: str, /, **arguments: object) -> Iterator[dict[str, Any]]:
    """Asks a running gated; yields its answers as they come. Raises ControlError."""
    try:
        question = msgspec.json.encode({"command": command, "arguments": arguments}) + b"\n"
    except UnicodeEncodeError:
        raise ControlError(
            "what was typed is not UTF-8 text", hint="Check the terminal's settings."
        ) from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            channel.connect(str(path))
        except PermissionError:
            raise ControlError(f"{path}: not permitted", hint="Run it as root: sudo gated …") from None
        except OSError as error:
            raise ControlError(
                f"no gate answers at {path}: {error.strerror or error}",
                hint="Is it running? systemctl status gated",
            ) from error
        try:
            channel.sendall(question)
            with channel.makefile("rb") as lines:
                yield from _answers(lines)
        except (OSError, msgspec.DecodeError):
            raise ControlError(
                "gated broke off in the middle of its answer", hint="See why: journalctl -u gated -n 20"
            ) from None


def _answers(lines: BinaryIO) -> Iterator[dict[str, Any]]:
    """The answers up to the end that gated gives them. Raises ControlError if gated says that it can't."""
    while not (line := msgspec.json.decode(lines.readline(), type=_Line)).done:
        if line.error is not None:
            refused = ControlError(line.error)
            refused.hint = line.hint
            raise refused
        yield line.answer


async def _question(reader: asyncio.StreamReader) -> _Question:
    try:
        return msgspec.json.decode(await reader.readline(), type=_Question)
    except (ValueError, RecursionError) as error:  # ValueError is also what a line that is too long raises
        raise ControlError(f"gated does not understand the question: {error}", hint=_VERSIONS) from error


def _in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(_PROBE_WITHIN)
        try:
            channel.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False  # left behind by one that was killed
        except OSError:
            return True  # it hangs, or is another user's
    return True
