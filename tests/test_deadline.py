import asyncio
from collections.abc import Callable

from gated.deadline import Deadline
from tests import virtual_time

Act = Callable[[Deadline], None]


def passings(*acts: tuple[float, Act]) -> list[float]:
    """When it passes, in seconds since the start, if this is done to it at these."""
    passed: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        deadline = Deadline(lambda: passed.append(round(loop.time() - start, 6)))
        for at, act in acts:
            loop.call_at(start + at, act, deadline)
        await asyncio.sleep(100)

    virtual_time.run(main())
    return passed


def in_(seconds: float) -> Act:
    return lambda deadline: deadline.set(seconds)


def test_a_deadline_passes_once() -> None:
    assert passings((0, in_(1))) == [1]


def test_a_deadline_that_is_set_anew_passes_then_and_not_before() -> None:
    assert passings((0, in_(1)), (0.5, in_(1)), (1.4, in_(1))) == [2.4]


def test_a_deadline_can_be_set_to_an_earlier_moment() -> None:
    assert passings((0, in_(50)), (1, in_(2))) == [3]


def test_a_deadline_that_was_cleared_does_not_pass() -> None:
    assert passings((0, in_(1)), (0.5, Deadline.clear)) == []


def test_a_deadline_can_be_set_after_it_was_cleared_and_after_it_has_passed() -> None:
    assert passings((0, in_(1)), (0.5, Deadline.clear), (0.6, in_(1)), (5, in_(1))) == [1.6, 6]


def test_a_deadline_can_be_set_by_what_is_done_when_it_passes() -> None:
    passed: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()

        def again() -> None:
            passed.append(round(loop.time() - start, 6))
            if len(passed) < 3:
                deadline.set(2)

        deadline = Deadline(again)
        deadline.set(2)
        await asyncio.sleep(100)

    virtual_time.run(main())
    assert passed == [2, 4, 6]
