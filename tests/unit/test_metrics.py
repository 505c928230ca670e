import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.metrics import Histogram
from chatflow.domain.persistence.metrics import PersistenceMetrics


def test_a_value_counts_in_the_first_bucket_whose_bound_it_does_not_pass() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.5, 1.0, 1.1, 5.0, 5.1):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.count == 5
    assert histogram.total == pytest.approx(12.7)


def test_an_empty_histogram_has_quantile_zero() -> None:
    assert Histogram((1.0, 2.0)).quantile(0.99) == 0.0


def test_a_quantile_is_the_bound_of_its_bucket_and_the_last_bound_above_it() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.1, 0.2, 0.3, 1.5):
        histogram.observe(value)
    assert [histogram.quantile(q) for q in (0.5, 0.75, 0.76, 1.0)] == [1.0, 1.0, 2.0, 2.0]
    histogram.observe(99.0)
    assert histogram.quantile(1.0) == 5.0


@given(st.lists(st.floats(0, 20), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_never_below_the_true_one_within_the_bounds(values: list[float], q: float) -> None:
    histogram = Histogram((1.0, 2.0, 5.0, 10.0, 20.0))
    for value in values:
        histogram.observe(value)
    rank = max(0, math.ceil(q * len(values)) - 1)
    assert histogram.quantile(q) >= sorted(values)[rank]


def test_two_processes_do_not_share_their_histograms() -> None:
    one, other = PersistenceMetrics(), PersistenceMetrics()
    one.batch_messages.observe(3)
    assert other.batch_messages.count == 0
    assert IngestMetrics().confirm_s is not IngestMetrics().confirm_s


def test_buckets_add_up_to_all_values() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.5, 1.6, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 1.0), ("2.0", 3.0), ("+Inf", 4.0)]
