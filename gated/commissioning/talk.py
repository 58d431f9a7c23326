"""The talk with whoever tests a gate: lines shown, lines typed."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field


class BrokenOff(Exception):
    """Nobody answers any more."""


@dataclass(slots=True)
class Talk:
    """The talk with whoever tests: ``tell`` shows a line, ``typed`` has the lines typed, None at their end.

    ``alone``: nobody is asked anything, and nothing is waited for.
    """

    tell: Callable[[str], None]
    alone: bool = False
    typed: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    async def ask(self, question: str, answers: str) -> str:
        """The first letter of an answer, one of ``answers``; the first of them for a blank line."""
        self.tell(question)
        while True:
            letter = (await self.line()).strip().lower()[:1] or answers[0]
            if letter in answers:
                return letter
            self.tell(f"Please answer with one of: {', '.join(answers)}")

    async def line(self) -> str:
        """The next line. Raises BrokenOff at the end of all lines."""
        return self._taken(await self.typed.get())

    def skipped(self) -> bool:
        """Whether somebody has pressed Enter meanwhile. Raises BrokenOff at the end of all lines."""
        if self.typed.empty():
            return False
        self._taken(self.typed.get_nowait())
        return True

    def _taken(self, line: str | None) -> str:
        if line is None:
            self.typed.put_nowait(None)
            raise BrokenOff
        return line

    def read_stdin(self) -> None:
        """Takes what is typed on standard input, from a thread: a terminal, a pipe and a file alike."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            rest = b""
            while piece := os.read(0, 4096):  # not sys.stdin, whose lock would hold up the end of the program
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    tell(line.decode(errors="replace"))
            tell(None)

        def tell(line: str | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.typed.put_nowait, line)

        threading.Thread(target=read, name="stdin", daemon=True).start()
