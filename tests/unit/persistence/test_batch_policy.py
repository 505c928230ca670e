import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.persistence.batch_policy import BatchPolicy


@pytest.mark.parametrize(
    ("depth", "size"),
    [(0, 500), (1, 500), (5_000, 500), (5_001, 2_000), (15_000, 2_000), (15_001, 3_000), (10**9, 3_000)],
)
def test_a_deeper_backlog_gets_bigger_batches(depth: int, size: int) -> None:
    assert BatchPolicy().size_for(depth) == size


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_batch_never_shrinks_as_the_backlog_grows(one: int, other: int) -> None:
    policy = BatchPolicy()
    assert policy.size_for(min(one, other)) <= policy.size_for(max(one, other))


def test_sizes_and_depths_are_settings() -> None:
    policy = BatchPolicy(small=1, medium=2, large=3, medium_depth=10, large_depth=20)
    assert [policy.size_for(depth) for depth in (10, 11, 20, 21)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"small": 0},
        {"small": 501, "medium": 500},
        {"medium": 4_000},
        {"medium_depth": -1},
        {"medium_depth": 16_000},
        {"linger_s": -0.1},
    ],
)
def test_sizes_that_make_no_sense_are_refused_at_the_start(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        BatchPolicy(**wrong)  # type: ignore[arg-type]


def test_a_flush_does_not_linger_unless_it_is_told_to() -> None:
    assert BatchPolicy().linger_s == 0
