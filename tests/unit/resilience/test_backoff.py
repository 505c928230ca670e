import pytest

from chatflow.domain.resilience.backoff import Backoff

BACKOFF = Backoff(0.05, 2.0)


def test_pauses_double_until_the_last_one() -> None:
    assert [BACKOFF.pause_s(failures) for failures in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_an_outage_of_any_length_has_a_pause() -> None:
    assert BACKOFF.pause_s(10**6) == 2.0


@pytest.mark.parametrize(("draw", "pause_s"), [(0.0, 0.1), (0.5, 0.2), (1.0, 0.3)])
def test_jitter_spreads_a_pause_around_its_length(draw: float, pause_s: float) -> None:
    assert BACKOFF.jittered_s(3, draw) == pytest.approx(pause_s)
