from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.ingest.pending import PendingPublishes
from chatflow.ports.broker import size_of
from tests.unit.fakes import RecordingSink, message

SINK = RecordingSink()
ONE = size_of(message(1))


def pending(count: int) -> PendingPublishes:
    box = PendingPublishes()
    for n in range(1, count + 1):
        assert box.add(message(n), SINK, n) == ONE
    return box


def refs(batch: list[tuple[object, object, object]]) -> list[object]:
    return [ref for _, _, ref in batch]


def test_an_envelope_takes_all_that_waits_when_it_fits() -> None:
    box = pending(3)
    batch, size = box.take(10, 10 * ONE)
    assert refs(batch) == [1, 2, 3]
    assert size == 3 * ONE
    assert len(box) == 0
    assert box.take(10, 10 * ONE) == ([], 0)


def test_an_envelope_holds_at_most_so_many_messages() -> None:
    box = pending(5)
    assert refs(box.take(2, 10 * ONE)[0]) == [1, 2]
    assert refs(box.take(2, 10 * ONE)[0]) == [3, 4]
    assert refs(box.take(2, 10 * ONE)[0]) == [5]


def test_an_envelope_holds_at_most_so_many_bytes() -> None:
    box = pending(5)
    assert refs(box.take(10, 3 * ONE - 1)[0]) == [1, 2]
    assert refs(box.take(10, 3 * ONE)[0]) == [3, 4, 5]


def test_a_message_that_is_larger_than_an_envelope_travels_alone() -> None:
    box = pending(2)
    assert refs(box.take(10, 1)[0]) == [1]


def test_taking_all_empties_it_whatever_the_limits() -> None:
    box = pending(5)
    batch, size = box.take_all()
    assert refs(batch) == [1, 2, 3, 4, 5]
    assert size == 5 * ONE
    assert box.take_all() == ([], 0)


@given(
    st.lists(st.sampled_from(["a", "é" * 40, "x" * 500]), max_size=40),
    st.integers(1, 10),
    st.integers(1, 3_000),
)
def test_envelopes_together_are_what_was_offered(texts: list[str], max_messages: int, max_bytes: int) -> None:
    box = PendingPublishes()
    added = sum(box.add(message(n, text=text), SINK, n) for n, text in enumerate(texts))
    seen: list[object] = []
    sizes = 0
    while len(box):
        batch, size = box.take(max_messages, max_bytes)
        assert 1 <= len(batch) <= max_messages
        assert size == sum(size_of(each) for each, _, _ in batch)
        assert size <= max_bytes or len(batch) == 1
        seen += refs(batch)
        sizes += size
    assert seen == list(range(len(texts)))
    assert sizes == added
