"""Commands over a real Unix socket: what is asked, answered, refused, and what is left behind."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gated.control import ControlServer, ask
from gated.errors import ControlError, StoreError

WITHIN = 5.0  # seconds; a bound for a busy machine


class Gate:
    """Commands such as gated has, and what was done."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.tick = asyncio.Event()

    def commands(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "release": self.release,
            "sync": self.sync,
            "watch": self.watch,
            "fail": self.fail,
            "odd": self.odd,
            "bug": self.bug,
        }

    async def status(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"gate": "North", "error": None, "done": False}

    async def release(self, *, lane: str, why: str = "") -> AsyncIterator[Mapping[str, Any]]:
        self.done.append((lane, why))
        yield {"released": lane}

    async def sync(self, *, pages: int) -> AsyncIterator[Mapping[str, Any]]:
        for page in range(pages):
            await asyncio.sleep(0)
            yield {"page": page}

    async def watch(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            while True:
                yield {"what": "tick"}
                await self.tick.wait()
                self.tick.clear()
        finally:
            self.done.append("watch ended")

    async def fail(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"page": 1}
        raise StoreError("the disk is full", hint="Make room.")

    async def odd(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"path": Path("/a"), "text": "a\nb …", "error": ValueError("x")}

    async def bug(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"page": 1}
        raise ValueError("a bug")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Gate]:
    gate = Gate()
    server = ControlServer(path, gate.commands())
    await server.start()
    try:
        yield gate
    finally:
        await server.close()


async def asked(path: Path, command: str, **arguments: object) -> list[dict[str, Any]]:
    """All answers, asked from a thread as the command line does from its process."""
    return await asyncio.wait_for(asyncio.to_thread(lambda: list(ask(path, command, **arguments))), WITHIN)


async def refusal(path: Path, command: str, **arguments: object) -> ControlError:
    with pytest.raises(ControlError) as caught:
        await asked(path, command, **arguments)
    return caught.value


async def sent(path: Path, question: bytes) -> dict[str, Any]:
    """What gated answers to bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(question)
    writer.write_eof()
    line = await asyncio.wait_for(reader.readline(), WITHIN)
    writer.close()
    answer: dict[str, Any] = json.loads(line)
    return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def test_a_question_is_answered_whatever_the_answers_keys_are_called(path: Path) -> None:
    async with serving(path):
        assert await asked(path, "status") == [{"gate": "North", "error": None, "done": False}]


async def test_arguments_arrive_and_those_with_a_default_may_be_left_out(path: Path) -> None:
    async with serving(path) as gate:
        assert await asked(path, "release", lane="North 1") == [{"released": "North 1"}]
        await asked(path, "release", lane="é\n", why="broken\x1b ticket")
        assert gate.done == [("North 1", ""), ("é\n", "broken\x1b ticket")]


async def test_answers_come_in_order_and_what_is_no_json_comes_as_text(path: Path) -> None:
    async with serving(path):
        assert await asked(path, "sync", pages=500) == [{"page": page} for page in range(500)]
        assert await asked(path, "odd") == [{"path": "/a", "text": "a\nb …", "error": "x"}]


async def test_each_answer_comes_when_it_is_given(path: Path) -> None:
    async with serving(path) as gate:
        answers = ask(path, "watch")
        assert await asyncio.to_thread(next, answers) == {"what": "tick"}
        gate.tick.set()
        assert await asyncio.to_thread(next, answers) == {"what": "tick"}


async def test_several_askers_are_answered_at_once(path: Path) -> None:
    async with serving(path):
        watching = ask(path, "watch")
        await asyncio.to_thread(next, watching)
        answers = await asyncio.gather(*(asked(path, "sync", pages=50) for _ in range(10)))
        assert all(len(each) == 50 for each in answers)


async def test_an_error_comes_with_its_hint_after_the_answers_before_it(path: Path) -> None:
    async with serving(path):
        answers = ask(path, "fail")
        assert await asyncio.to_thread(next, answers) == {"page": 1}
        with pytest.raises(ControlError, match="the disk is full") as caught:
            await asyncio.to_thread(next, answers)
        assert caught.value.hint == "Make room."


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("open", {}, "'open' is no command of the gate that runs"),
        ("release", {}, "release: missing a required argument: 'lane'"),
        ("release", {"lane": "a", "force": 1}, "release: got an unexpected keyword argument 'force'"),
        ("status", {"lane": "a"}, "status: got an unexpected keyword argument 'lane'"),
    ],
)
async def test_a_wrong_question_is_refused_with_a_hint_and_does_nothing(
    command: str, arguments: dict[str, Any], said: str, path: Path
) -> None:
    async with serving(path) as gate:
        error = await refusal(path, command, **arguments)
        words = str(error).replace("required keyword-only", "required")  # Python 3.13 has a word more
        assert (words, gate.done) == (said, [])
        assert error.hint


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\n",
        b"status\n",
        b'{"command": "status"',
        b'"status"\n',
        b"[]\n",
        b"{}\n",
        b'{"command": 1}\n',
        b'{"command": "release", "arguments": ["a"]}\n',
        b'{"command": "status", "argument": {}}\n',
        b'{"command": "release", "arguments": {"lane": "\\udcff"}}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"command": "' + b"x" * 70_000 + b'"}\n',
        b"x" * 200_000,
    ],
    ids=lambda question: question[:24].decode(errors="replace"),
)
async def test_what_is_no_question_is_refused_and_the_next_one_answered(question: bytes, path: Path) -> None:
    async with serving(path) as gate:
        answer = await sent(path, question)
        assert answer["error"].startswith("gated does not understand the question")
        assert gate.done == []
        assert await asked(path, "status")


async def test_a_question_needs_no_arguments_nor_a_line_end(path: Path) -> None:
    async with serving(path):
        assert await sent(path, b'{"command": "status"}') == {
            "answer": {"gate": "North", "error": None, "done": False}
        }


async def test_a_bug_in_a_command_ends_its_talk_and_is_logged_and_nothing_else(path: Path) -> None:
    with capture_logs() as told:
        await run_into_a_bug(path)
    assert [line["event"] for line in told] == ["command_failed"]


async def run_into_a_bug(path: Path) -> None:
    async with serving(path):
        error = await refusal(path, "bug")
        assert "broke off" in str(error)
        assert "journalctl" in error.hint
        assert await asked(path, "status")


async def test_an_asker_that_goes_away_ends_its_stream_at_the_next_answer(path: Path) -> None:
    async with serving(path) as gate:
        answers = ask(path, "watch")
        await asyncio.to_thread(next, answers)
        answers.close()
        gate.tick.set()
        async with asyncio.timeout(WITHIN):
            while gate.done != ["watch ended"]:
                await asyncio.sleep(0.001)
        assert await asked(path, "status")


async def test_an_asker_that_does_not_wait_for_the_answer_is_obeyed_all_the_same(path: Path) -> None:
    async with serving(path) as gate:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(path))
            channel.sendall(b'{"command": "release", "arguments": {"lane": "a"}}\n')
        async with asyncio.timeout(WITHIN):
            while gate.done != [("a", "")]:
                await asyncio.sleep(0.001)


async def test_closing_ends_streams_and_silent_talks_and_takes_the_socket_away(path: Path) -> None:
    async with serving(path) as gate:
        streams = [ask(path, "watch") for _ in range(2)]
        for stream in streams:
            await asyncio.to_thread(next, stream)
        _, silent = await asyncio.open_unix_connection(str(path))
    assert gate.done == ["watch ended"] * 2
    for stream in streams:
        with pytest.raises(ControlError, match="broke off"):
            await asyncio.to_thread(next, stream)
    silent.close()
    assert not path.exists()
    assert "no gate answers" in str(await refusal(path, "status"))


async def test_root_and_the_group_may_command_and_nobody_else(path: Path) -> None:
    old = os.umask(0)
    try:
        async with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(old)


async def test_a_second_gated_is_refused_and_the_first_goes_on(path: Path) -> None:
    async with serving(path):
        second = ControlServer(path, {})
        with pytest.raises(ControlError, match="another gated is running") as caught:
            await second.start()
        assert "systemctl stop gated" in caught.value.hint
        await second.close()
        assert await asked(path, "status")


async def test_a_second_gated_is_refused_though_the_first_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gated.control._PROBE_WITHIN", 0.02)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as waiting:
        hanging.bind(str(path))
        hanging.listen(0)
        waiting.connect(str(path))  # there is room for no more
        with pytest.raises(ControlError, match="another gated is running"):
            await ControlServer(path, {}).start()
        assert path.exists()


@pytest.mark.parametrize("left", ["socket", "file"])
async def test_what_a_killed_gated_left_behind_is_replaced(left: str, path: Path) -> None:
    path.parent.mkdir()
    if left == "file":
        path.touch()
    else:
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
            killed.listen()
    assert path.exists()
    async with serving(path):
        assert await asked(path, "status")


@pytest.mark.parametrize("place", ["a file", "too long"])
async def test_a_place_that_can_not_be_used_is_an_error_that_names_it(place: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200 if place == "too long" else "file") / "control.sock"
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match=r"/control\.sock: (?!None)") as caught:
        await ControlServer(path, {}).start()
    assert "state_dir" in caught.value.hint


async def test_without_a_running_gated_the_error_says_how_to_look(path: Path) -> None:
    error = await refusal(path, "status")
    assert str(error) == f"no gate answers at {path}: No such file or directory"
    assert error.hint == "Is it running? systemctl status gated"


async def test_who_may_not_open_the_socket_is_told_to_be_root(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "connect", refused)  # root may open any socket, and runs tests too
    assert "sudo gated" in (await refusal(path, "status")).hint


async def test_what_is_not_text_is_not_sent(path: Path) -> None:
    assert "not UTF-8" in str(await refusal(path, "release", lane="\udcff"))


async def test_half_an_answer_is_told_as_broken_off(path: Path) -> None:
    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"answer": {"gate"')
        writer.close()

    path.parent.mkdir()
    async with await asyncio.start_unix_server(half, str(path)):
        assert "broke off" in str(await refusal(path, "status"))
