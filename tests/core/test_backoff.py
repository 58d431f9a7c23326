import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.backoff import pause

FAILURES = st.integers(1, 10_000)
CHANCES = st.floats(0, 1)


@pytest.mark.parametrize(
    ("failures", "limit"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (10_000, 60)]
)
def test_the_longest_pause_doubles_with_each_failure_up_to_a_minute(failures: int, limit: float) -> None:
    assert pause(failures, 1.0).total_seconds() == limit


@given(failures=FAILURES, chance=CHANCES)
def test_a_pause_is_anything_from_nothing_to_its_limit_by_chance(failures: int, chance: float) -> None:
    limit = pause(failures, 1.0).total_seconds()
    assert pause(failures, chance).total_seconds() == pytest.approx(limit * chance, abs=1e-6)


@given(failures=FAILURES, chance=CHANCES, wish_s=st.floats(0, 3600))
def test_a_pause_is_never_shorter_than_the_server_wishes(failures: int, chance: float, wish_s: float) -> None:
    assert pause(failures, chance, wish_s) == max(pause(failures, chance), pause(failures, 0, wish_s))
    assert pause(failures, chance, wish_s).total_seconds() >= wish_s - 1e-6
