import attrs
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.delivery.sequencer import RoomSequencer
from chatflow.ports.messages import StoredMessage
from tests.unit.fakes import stored


def seqs(due: list[StoredMessage]) -> list[int]:
    return [each.seq for each in due]


def offer(sequencer: RoomSequencer, *numbers: int) -> list[int]:
    return seqs(sequencer.offer([stored(n) for n in numbers]))


def started(head: int, ahead_limit: int = 1_000) -> RoomSequencer:
    sequencer = RoomSequencer(ahead_limit)
    sequencer.start(head)
    return sequencer


def test_what_follows_the_head_is_due_at_once() -> None:
    sequencer = started(41)
    assert offer(sequencer, 42, 43) == [42, 43]
    assert sequencer.last == 43
    assert sequencer.missing() is None


def test_what_was_seen_is_dropped() -> None:
    sequencer = started(41)
    assert offer(sequencer, 41, 42, 42, 40) == [42]
    assert offer(sequencer, 42) == []
    assert sequencer.missing() is None


def test_what_lies_above_a_gap_waits_for_the_gap_to_be_filled() -> None:
    sequencer = started(0)
    assert offer(sequencer, 3) == []
    assert sequencer.missing() == (0, 2)
    assert offer(sequencer, 1) == [1]
    assert sequencer.missing() == (1, 1)
    assert offer(sequencer, 2) == [2, 3]
    assert sequencer.missing() is None


def test_a_lost_tail_is_missing_once_the_head_of_the_store_is_known() -> None:
    sequencer = started(5)
    assert sequencer.missing() is None
    sequencer.note_head(8)
    assert sequencer.missing() == (5, 3)
    sequencer.note_head(7)
    assert sequencer.missing() == (5, 3)
    assert offer(sequencer, 6, 7, 8) == [6, 7, 8]
    assert sequencer.missing() is None


def test_what_arrives_before_the_start_is_delivered_by_the_start_if_it_lies_above_the_head() -> None:
    sequencer = RoomSequencer()
    assert offer(sequencer, 7, 6, 5, 9) == []
    assert sequencer.missing() is None
    assert seqs(sequencer.start(5)) == [6, 7]
    assert sequencer.missing() == (7, 1)


def test_beyond_the_limit_nothing_is_kept_and_everything_is_still_known_to_be_missing() -> None:
    sequencer = started(0, ahead_limit=2)
    assert offer(sequencer, 3, 4, 5, 6) == []
    assert len(sequencer._ahead) == 2
    assert sequencer.missing() == (0, 2)
    assert offer(sequencer, 1, 2) == [1, 2, 3, 4]
    assert sequencer.missing() == (4, 2)
    assert offer(sequencer, 5, 6) == [5, 6]
    assert sequencer.missing() is None


ops = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 5)),
        st.tuples(st.just("bring"), st.lists(st.floats(0, 1, exclude_max=True), max_size=6)),
        st.tuples(st.just("repair"), st.integers(1, 4)),
        st.tuples(st.just("head"), st.just(0)),
        st.tuples(st.just("start"), st.floats(0, 1)),
    ),
    max_size=60,
)


@attrs.define
class Channel:
    """A store, a sequencer, and whatever comes between them."""

    sequencer: RoomSequencer
    store: list[StoredMessage] = attrs.field(factory=list)
    first: int | None = None
    delivered: list[int] = attrs.field(factory=list)

    def act(self, action: str, argument: object) -> None:
        match action, argument:
            case "commit", int(count):
                self.store += [stored(len(self.store) + 1 + n) for n in range(count)]
            case "bring", list(places) if self.store:
                self.delivered += seqs(self.sequencer.offer([self.store[int(p * len(self.store))] for p in places]))
            case "repair", int(limit):
                self.repair(limit)
            case "head", _:
                self.sequencer.note_head(len(self.store))
            case "start", float(place) if self.first is None:
                self.first = int(place * len(self.store))
                self.delivered += seqs(self.sequencer.start(self.first))

    def repair(self, limit: int) -> None:
        if (gap := self.sequencer.missing()) is not None:
            after, count = gap
            assert count >= 1
            assert after + count <= len(self.store)
            self.delivered += seqs(self.sequencer.offer(self.store[after : after + min(limit, count)]))

    def check(self) -> None:
        if self.first is None:
            assert not self.delivered
        else:
            assert self.delivered == list(range(self.first + 1, self.first + 1 + len(self.delivered)))
        assert len(self.sequencer._ahead) <= self.sequencer.ahead_limit


@given(ops, st.integers(1, 6))
def test_any_mix_of_losses_doubles_disorder_and_repairs_delivers_each_number_once_in_order(
    actions: list[tuple[str, object]], ahead_limit: int
) -> None:
    """The channel may bring any committed message at any time, or never; the store has them all."""
    channel = Channel(RoomSequencer(ahead_limit))
    for action, argument in [*actions, ("start", 0.0), ("head", 0)]:
        channel.act(action, argument)
        channel.check()
    for _ in range(2 * len(channel.store)):
        channel.repair(3)
    assert channel.first is not None
    assert channel.first + len(channel.delivered) == len(channel.store)
    channel.check()
    assert channel.sequencer.missing() is None
    assert not channel.sequencer._ahead
