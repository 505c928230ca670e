import attrs
import pytest

from chatflow.domain.ingest.stored_acks import CHUNK, StoredAcks
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.messages import StoredMessage
from tests.harness.clock import FakeClock
from tests.unit.fakes import FakeStore, live, message, messages


@attrs.define(eq=False)
class Told:
    """A sender that remembers the sequence numbers it was told."""

    seqs: list[int] = attrs.field(factory=list)
    times_given_up: int = 0

    def told(self, stored: StoredMessage) -> None:
        self.seqs.append(stored.seq)

    def given_up(self) -> None:
        self.times_given_up += 1


@attrs.define(eq=False)
class Bench:
    clock: FakeClock = attrs.field(factory=FakeClock)
    store: FakeStore = attrs.field(factory=FakeStore)
    acks: StoredAcks = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.acks = StoredAcks(self.store, self.clock, overdue_s=1.0)


async def test_a_sender_is_told_once_when_the_live_channel_brings_its_message() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(2).key, sender)
    rows = bench.store.put(*messages(1, 3))
    bench.acks.on_live(live(rows))
    bench.acks.on_live(live(rows))
    assert sender.seqs == [2]
    assert len(bench.acks) == 0


async def test_everybody_who_sent_the_same_id_is_told() -> None:
    bench, one, other = Bench(), Told(), Told()
    bench.acks.expect(message(1).key, one)
    bench.acks.expect(message(1).key, other)
    bench.acks.on_live(live(bench.store.put(message(1))))
    assert (one.seqs, other.seqs) == ([1], [1])


async def test_somebody_elses_message_of_the_same_id_tells_nobody() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1, user_id=8).key, sender)
    bench.acks.on_live(live(bench.store.put(message(1, user_id=7))))
    bench.clock.advance(5.0)
    await bench.acks.resync()
    assert sender.seqs == []
    bench.acks.on_live(live(bench.store.put(message(1, user_id=8))))
    assert sender.seqs == [2]


async def test_who_was_forgotten_is_not_told_and_the_others_are() -> None:
    bench, one, other = Bench(), Told(), Told()
    bench.acks.expect(message(1).key, one)
    bench.acks.expect(message(1).key, other)
    bench.acks.forget(message(1).key, one)
    bench.acks.forget(message(1).key, one)
    bench.acks.on_live(live(bench.store.put(message(1))))
    assert (one.seqs, other.seqs) == ([], [1])


async def test_forgetting_the_last_one_leaves_nothing() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1).key, sender)
    bench.acks.forget(message(1).key, sender)
    bench.acks.forget(message(2).key, sender)
    assert len(bench.acks) == 0


async def test_what_the_live_channel_lost_is_found_in_the_store_once_it_is_overdue() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1).key, sender)
    bench.store.put(message(1))
    await bench.acks.resync()
    assert bench.store.calls == []
    bench.clock.advance(1.0)
    await bench.acks.resync()
    assert sender.seqs == [1]
    assert len(bench.acks) == 0


async def test_what_is_not_stored_yet_goes_on_waiting() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1).key, sender)
    bench.clock.advance(5.0)
    await bench.acks.resync()
    assert sender.seqs == []
    bench.acks.on_live(live(bench.store.put(message(1))))
    assert sender.seqs == [1]


async def test_a_store_that_is_down_is_asked_again_next_time() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1).key, sender)
    bench.store.put(message(1))
    bench.clock.advance(5.0)
    bench.store.down = StoreUnavailable("no store")
    with pytest.raises(StoreUnavailable):
        await bench.acks.resync()
    bench.store.down = None
    await bench.acks.resync()
    assert sender.seqs == [1]


async def test_many_overdue_messages_are_looked_up_in_chunks() -> None:
    bench, sender = Bench(), Told()
    for n in range(1, 2 * CHUNK + 2):
        bench.acks.expect(message(n).key, sender)
    bench.store.put(*messages(1, 2 * CHUNK + 1))
    bench.clock.advance(5.0)
    await bench.acks.resync()
    assert sender.seqs == list(range(1, 2 * CHUNK + 2))
    assert [len(ids) for _, ids in bench.store.calls] == [CHUNK, CHUNK, 1]


async def test_a_sender_may_expect_the_next_message_while_it_is_told() -> None:
    bench, second = Bench(), Told()

    class First(Told):
        def told(self, stored: StoredMessage) -> None:
            bench.acks.expect(message(2).key, second)

    bench.acks.expect(message(1).key, First())
    bench.acks.on_live(live(bench.store.put(*messages(1, 2))))
    assert second.seqs == [2]


async def test_who_waits_for_what_never_comes_is_given_up_once_and_the_younger_waits_on() -> None:
    bench, old, young = Bench(), Told(), Told()
    bench.acks.expect(message(1).key, old)
    bench.clock.now += bench.acks.patience_s - 1.5
    bench.acks.expect(message(1).key, young)
    await bench.acks.resync()
    assert (old.times_given_up, young.times_given_up) == (0, 0)
    bench.clock.now += 1.5
    await bench.acks.resync()
    await bench.acks.resync()
    assert (old.times_given_up, young.times_given_up) == (1, 0)
    bench.acks.on_live(live(bench.store.put(message(1))))
    assert (old.seqs, young.seqs) == ([], [1])


async def test_nobody_is_given_up_while_the_store_cannot_be_asked() -> None:
    bench, sender = Bench(), Told()
    bench.acks.expect(message(1).key, sender)
    bench.clock.now += 2 * bench.acks.patience_s
    bench.store.down = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await bench.acks.resync()
    assert sender.times_given_up == 0


async def test_it_is_idle_exactly_while_nobody_waits() -> None:
    bench, one, other = Bench(), Told(), Told()
    assert bench.acks.is_idle
    bench.acks.expect(message(1).key, one)
    bench.acks.expect(message(2).key, other)
    bench.acks.forget(message(1).key, one)
    assert not bench.acks.is_idle
    bench.acks.on_live(live(bench.store.put(*messages(1, 2))))
    assert bench.acks.is_idle
    bench.acks.expect(message(3).key, one)
    bench.acks.forget(message(3).key, one)
    assert bench.acks.is_idle
