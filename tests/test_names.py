"""Names are looked up so that nothing waits for them that need not."""

import asyncio
import socket
import threading
import time

import pytest

from gated.names import Loop


async def look_up(host: str, port: int = 443) -> list[object]:
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def test_a_name_has_the_systems_addresses() -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        found = runner.run(look_up("127.0.0.1", 80))
    assert found == socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such name"), OSError),
        (UnicodeError("label too long"), ValueError),
        (OverflowError("no port"), OverflowError),
    ],
)
def test_a_look_up_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with asyncio.Runner(loop_factory=Loop) as runner, pytest.raises(expected):
        runner.run(look_up("nowhere.example.org"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_loop_ends_while_look_ups_hang_and_their_late_ends_disturb_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        answered.wait(10)
        return []

    async def call() -> None:
        calls = [asyncio.create_task(look_up(f"{number}.example.org")) for number in range(40)]
        await asyncio.wait(calls, timeout=0.01)
        await asyncio.to_thread(time.monotonic)  # the loop's own threads are free
        for each in calls:
            each.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = set(threading.enumerate())
    began = time.monotonic()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(call())
    assert time.monotonic() - began < 5
    hanging = set(threading.enumerate()) - before
    assert len(hanging) == 40
    assert all(thread.daemon for thread in hanging)
    answered.set()
    for thread in hanging:
        thread.join(5)
