"""Commands to a running daemon, over a Unix socket in its runtime directory.

One line of JSON asks, ``{"command": …, "arguments": {…}}``; lines of JSON answer, the last one carrying
``"done": true`` or ``"error"``. Who may open the socket (root and the group of gated) may command the gate.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gated import log
from gated.errors import ControlError, GatedError

Answers = AsyncIterator[Mapping[str, Any]]
Command = Callable[..., Answers]

SOCKET = "control.sock"
_MOST_BYTES = 64 * 1024  # of one question


class ControlServer:
    """Answers commands on the running loop."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._log = log.get("control")
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listens. Raises ControlError if another gated answers there, or the place can't be used."""
        if self._path.exists() and _answers(self._path):
            raise ControlError(
                f"{self._path}: another gated is running", hint="Stop it first: systemctl stop gated"
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._talk, str(self._path), limit=_MOST_BYTES)
            os.chmod(self._path, 0o660)
        except OSError as error:
            raise ControlError(f"{self._path}: {error.strerror}", hint="Check [gate] state_dir.") from error

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
            await self._answer(await reader.readline(), writer)
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # the asker has gone, or gated goes
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        async def say(answer: Mapping[str, Any]) -> None:
            writer.write(json.dumps(answer, default=str).encode() + b"\n")
            await writer.drain()

        try:
            command, arguments = _question(line)
            if command not in self._commands:
                raise ControlError(f"{command!r} is no command of the daemon")
            async for answer in self._commands[command](**arguments):
                await say(answer)
        except (GatedError, TypeError) as error:
            hint = error.hint if isinstance(error, GatedError) else ""
            await say({"error": str(error), "hint": hint})
        else:
            await say({"done": True})


def ask(path: Path, command: str, /, **arguments: object) -> Iterator[dict[str, Any]]:
    """Asks a running gated; yields its answers as they come. Raises ControlError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            channel.connect(str(path))
        except PermissionError:
            raise ControlError(f"{path}: not permitted", hint="Run it as root: sudo gated …") from None
        except OSError as error:
            raise ControlError(f"no gated answers at {path}: {error.strerror}") from error
        channel.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        with channel.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise ControlError(answer["error"], hint=answer.get("hint", ""))
                if answer.get("done"):
                    return
                yield answer
    raise ControlError("gated ended in the middle of its answer")


def _question(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        question = json.loads(line)
        return str(question["command"]), dict(question.get("arguments") or {})
    except (ValueError, KeyError, TypeError) as error:
        raise ControlError("that is not a question gated understands") from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            channel.connect(str(path))
        except OSError:
            return False
        return True
