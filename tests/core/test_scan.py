from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122

from hypothesis import given
from hypothesis import strategies as st

from gated.core.scan import uuid7

RANDOMNESS = st.integers(0, (1 << 80) - 1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.timedeltas(timedelta(), timedelta(days=365 * 5000)).map(lambda since: EPOCH + since)


@given(wall=TIMES, randomness=RANDOMNESS)
def test_a_uuid7_says_its_version_and_its_variant(wall: datetime, randomness: int) -> None:
    made = uuid7(wall, randomness)
    assert (made.version, made.variant) == (7, RFC_4122)


def test_a_uuid7_is_laid_out_like_the_example_of_rfc_9562() -> None:
    # Appendix A.6: 2022-02-22 14:22:22 -05:00, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    wall = datetime(2022, 2, 22, 14, 22, 22, tzinfo=timezone(timedelta(hours=-5)))
    randomness = 0xCC3 << 68 | 0x18C4DC0C0C07398F
    assert str(uuid7(wall, randomness)) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(wall=TIMES, randomness=RANDOMNESS)
def test_the_first_48_bits_of_a_uuid7_are_unix_milliseconds(wall: datetime, randomness: int) -> None:
    milliseconds = uuid7(wall, randomness).int >> 80
    assert abs(milliseconds - wall.timestamp() * 1000) <= 1


@given(one=TIMES, other=TIMES, randomness=st.tuples(RANDOMNESS, RANDOMNESS))
def test_uuid7s_sort_by_the_millisecond_they_were_made_in(
    one: datetime, other: datetime, randomness: tuple[int, int]
) -> None:
    earlier, later = sorted((one, other))
    if later - earlier > timedelta(milliseconds=1):
        assert uuid7(earlier, randomness[0]) < uuid7(later, randomness[1])


@given(one=RANDOMNESS, other=RANDOMNESS)
def test_uuid7s_of_one_moment_differ_by_74_random_bits(one: int, other: int) -> None:
    wall = datetime(2026, 7, 1, 20, tzinfo=UTC)
    unused = ~(0b111111 << 62) & (1 << 80) - 1  # six of the eighty bits given have no place
    alike = one & unused == other & unused
    assert (uuid7(wall, one) == uuid7(wall, other)) == alike


def test_a_time_before_1970_is_taken_for_1970() -> None:
    assert uuid7(EPOCH - timedelta(days=1), 0).int >> 80 == 0
