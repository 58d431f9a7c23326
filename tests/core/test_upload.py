"""How a refused batch is taken apart, against every server that hypothesis can think of."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core import upload
from gated.core.outbox import Kind, Row
from gated.core.upload import After


def rows(count: int) -> list[Row]:
    return [Row(number, Kind.CHECK_IN, f"B{number}", 1_700_000_000, 100, "ADMIT") for number in range(count)]


@dataclass
class Server:
    """Refuses a batch that holds a poisonous row, is too large, or any at all."""

    poison: frozenset[int] = frozenset()
    most: int = 1000
    refuses_all: bool = False
    has: list[int] = field(default_factory=list)
    requests: int = 0

    def status(self, group: upload.Group) -> int:
        self.requests += 1
        if len(group) > self.most:
            return 413
        if self.refuses_all or any(row.seq in self.poison for row in group):
            return 400
        self.has += [row.seq for row in group]
        return 201


def send(plan: upload.Plan, server: Server) -> tuple[upload.Plan, After]:
    verdict = After.GO_ON
    while plan.next and verdict is After.GO_ON:
        status = server.status(plan.next)
        if status == 201:
            plan = upload.accepted(plan)
        else:
            plan, verdict = upload.refused(plan, status)
    return plan, verdict


def test_a_good_batch_goes_in_one_request() -> None:
    server = Server()
    plan, _ = send(upload.begin(rows(50), 50), server)
    assert (server.has, server.requests, plan.parked) == (list(range(50)), 1, ())


def test_one_bad_row_is_parked_and_the_rest_arrives() -> None:
    server = Server(frozenset({7}))
    plan, verdict = send(upload.begin(rows(50), 50), server)
    assert verdict is After.GO_ON
    assert [row.seq for row in plan.parked] == [7]
    assert sorted(server.has) == [seq for seq in range(50) if seq != 7]


def test_a_row_refused_alone_is_not_parked_when_nothing_else_was_accepted() -> None:
    server = Server(frozenset({0}))
    plan, _ = send(upload.begin(rows(1), 50), server)
    assert (plan.parked, [row.seq for row in plan.refused]) == ((), [0])


def test_many_bad_rows_at_the_head_do_not_keep_the_good_ones_back() -> None:
    server = Server(frozenset(range(40)))
    plan, verdict = send(upload.begin(rows(50), 50), server)
    assert verdict is After.GO_ON
    assert sorted(server.has) == list(range(40, 50))
    assert len(plan.parked) == 40


def test_a_service_that_refuses_everything_parks_nothing_and_is_noticed_soon() -> None:
    server = Server(refuses_all=True)
    plan, verdict = send(upload.begin(rows(50), 50), server)
    assert verdict is After.SERVICE_REFUSES
    assert plan.parked == ()
    assert server.requests < 12


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408])
def test_a_status_about_the_service_says_nothing_about_rows(status: int) -> None:
    plan, verdict = upload.refused(upload.begin(rows(1), 50), status)
    assert (verdict, plan.refused) == (After.SERVICE_REFUSES, ())


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_status_that_passes_keeps_everything_for_later(status: int) -> None:
    before = upload.begin(rows(3), 50)
    assert upload.refused(before, status) == (before, After.LATER)


def test_batches_are_smaller_after_413_and_never_empty() -> None:
    assert upload.size_after(413, 50, 50) == 25
    assert upload.size_after(413, 1, 25) == 1
    assert upload.size_after(400, 50, 50) == 50


@given(
    count=st.integers(1, 60),
    size=st.integers(1, 60),
    poison=st.frozensets(st.integers(0, 59)),
    most=st.integers(1, 60),
)
def test_every_good_row_arrives_once_and_only_bad_rows_are_parked(
    count: int, size: int, poison: frozenset[int], most: int
) -> None:
    server = Server(poison, most)
    plan, verdict = send(upload.begin(rows(count), size), server)
    assert len(server.has) == len(set(server.has))
    assert {row.seq for row in plan.parked} <= poison
    if verdict is After.GO_ON:
        assert set(server.has) == set(range(count)) - poison
        if set(server.has):
            assert {row.seq for row in plan.parked} == poison & set(range(count)) or not plan.proved
    assert server.requests <= 4 * count + 1
