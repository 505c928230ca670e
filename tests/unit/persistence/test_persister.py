from collections.abc import Sequence

import attrs
import pytest

from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.persister import Persister
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, SequenceCollision, StoreUnavailable
from chatflow.ports.messages import StoredMessage
from tests.harness.clock import FakeClock
from tests.unit.fakes import EPOCH_US, FakeCache, FakeLive, FakeStore, message, message_id, messages


@attrs.define(eq=False)
class LoggedLive(FakeLive):
    log: list[tuple[str, object]] = attrs.field(factory=list)

    async def publish_live(self, envelope: object) -> None:
        self.log.append(("publish_live", [s.seq for s in envelope.messages]))
        await super().publish_live(envelope)


@attrs.define(eq=False)
class Bench:
    store: FakeStore = attrs.field(factory=FakeStore)
    metrics: PersistenceMetrics = attrs.field(factory=PersistenceMetrics)
    cache: FakeCache = attrs.field(init=False)
    live: LoggedLive = attrs.field(init=False)
    persister: Persister = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.cache = FakeCache(self.store.calls)
        self.live = LoggedLive(log=self.store.calls)
        self.persister = Persister(
            self.store,
            self.live,
            self.metrics,
            FakeClock(),
            lambda: EPOCH_US + 2_000_000,
            self.cache,
            self.cache,
            commit_of=rooms_of,
        )

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.store.calls]


def rooms_of(stored: Sequence[StoredMessage]) -> Commit:
    return Commit(tuple(sorted({each.message.room_id for each in stored})), tuple(stored[:1]))


def ids(*numbers: int) -> list[str]:
    return [message_id(n) for n in numbers]


async def test_the_order_is_commit_then_invalidate_then_announce() -> None:
    bench = Bench()
    await bench.persister.persist(3, [message(1), message(2, "den")])
    assert bench.store.calls == [
        ("append_batch", ids(1, 2)),
        ("publish", (["den", "lobby"], [1])),
        ("publish_live", [1, 1]),
    ]
    assert bench.live.published[0].partition == 3


async def test_a_batch_write_takes_from_its_commit_to_its_announcement() -> None:
    bench = Bench()
    clock = bench.persister.clock
    bench.live.subscribers.append(lambda _: clock.advance(2.0))

    async def commit() -> None:
        clock.advance(0.5)

    bench.store.after_commit = commit
    await bench.persister.persist(0, messages(1, 2))
    assert bench.metrics.batch_s.total == 0.5
    assert (bench.metrics.write_s, bench.metrics.slowest_write_s) == (2.5, 2.5)


async def test_nothing_is_invalidated_or_announced_when_the_commit_fails() -> None:
    bench = Bench()
    bench.store.failures.append(StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable):
        await bench.persister.persist(0, messages(1, 2))
    assert bench.order == ["append_batch"]
    assert bench.metrics.stored == 0


async def test_a_sequence_collision_is_loud() -> None:
    bench = Bench()
    bench.store.failures.append(SequenceCollision("lobby/1"))
    with pytest.raises(SequenceCollision):
        await bench.persister.persist(0, messages(1, 2))
    assert bench.store.dead == {}


async def test_persisting_again_after_an_unknown_outcome_stores_nothing_twice_and_announces_the_first_numbers() -> None:
    bench = Bench()
    bench.store.lost_answers.append(StoreUnavailable("cut after the commit"))
    with pytest.raises(StoreUnavailable):
        await bench.persister.persist(0, messages(1, 3))
    await bench.persister.persist(0, messages(1, 3))
    assert bench.store.ids() == ids(1, 2, 3)
    assert [s.seq for s in bench.live.published[-1].messages] == [1, 2, 3]
    assert bench.metrics.duplicates == 3


async def test_a_message_whose_id_stands_for_another_one_is_counted_and_told_and_the_first_is_announced() -> None:
    bench, told = Bench(), []
    bench.persister.on_conflict = told.append
    first, other, theirs = message(1), message(1, text="ho"), message(1, text="ho", user_id=8)
    await bench.persister.persist(0, [first, other, theirs, first])
    await bench.persister.persist(0, [other, message(2)])
    assert told == [other, other]
    assert (bench.metrics.stored, bench.metrics.duplicates, bench.metrics.conflicts) == (3, 3, 2)
    assert [stored.message for stored in bench.live.published[-1].messages] == [first, message(2)]


async def test_a_cache_that_is_down_fails_nothing_and_is_counted() -> None:
    bench = Bench()
    bench.cache.down = CacheUnavailable("no cache")
    await bench.persister.persist(0, messages(1, 2))
    assert bench.order == ["append_batch", "publish", "publish_live"]
    assert bench.metrics.invalidation_failures == 1


async def test_whoever_may_have_died_owing_an_invalidation_costs_everything_that_is_cached() -> None:
    bench = Bench()
    await bench.persister.void_cache()
    assert bench.store.calls == [("invalidate", None)]
    bench.cache.down = CacheUnavailable("no cache")
    await bench.persister.void_cache()
    assert bench.metrics.invalidation_failures == 1


async def test_a_live_channel_that_is_down_fails_nothing_and_is_counted() -> None:
    bench = Bench()
    bench.live.down = BrokerUnavailable("no live channel")
    await bench.persister.persist(0, messages(1, 2))
    assert bench.store.ids() == ids(1, 2)
    assert bench.metrics.live_failures == 1


async def test_without_a_cache_nothing_is_invalidated() -> None:
    bench = Bench()
    bench.persister.cache = bench.persister.feed = None
    await bench.persister.persist(0, messages(1, 2))
    await bench.persister.void_cache()
    assert bench.order == ["append_batch", "publish_live"]


@pytest.mark.parametrize("poison", [{1}, {8}, {4, 5}, {1, 3, 8}, {2, 3, 4, 5, 6, 7}, set(range(1, 9))])
async def test_poison_is_dead_lettered_alone_and_the_rest_keeps_its_order(poison: set[int]) -> None:
    bench = Bench()
    bench.store.poison = {message_id(n) for n in poison}
    await bench.persister.persist(0, messages(1, 8))
    assert bench.store.ids() == [message_id(n) for n in range(1, 9) if n not in poison]
    assert set(bench.store.dead) == bench.store.poison
    assert all("out of range" in reason for reason in bench.store.dead.values())
    assert bench.metrics.dead_lettered == len(poison)
    announced = [s.message.message_id for envelope in bench.live.published for s in envelope.messages]
    assert announced == bench.store.ids()


async def test_one_poisoned_message_among_a_thousand_is_found_by_bisection() -> None:
    bench = Bench()
    bench.store.poison = {message_id(700)}
    await bench.persister.persist(0, messages(1, 1_000))
    assert len(bench.store.ids()) == 999
    assert bench.store.count("append_batch") <= 21


async def test_a_message_that_cannot_even_be_dead_lettered_is_not_settled() -> None:
    bench = Bench()
    bench.store.poison = {message_id(2)}
    bench.store.dead_letter_failures.append(StoreUnavailable("no room for the dead"))
    with pytest.raises(StoreUnavailable):
        await bench.persister.persist(0, messages(1, 3))
    assert bench.store.dead == {}
    assert bench.metrics.dead_lettered == 0
    await bench.persister.persist(0, messages(1, 3))
    assert bench.store.ids() == ids(1, 3)
    assert set(bench.store.dead) == {message_id(2)}


async def test_a_store_that_goes_away_during_the_bisection_is_told_and_the_repeat_finishes_it() -> None:
    bench = Bench()
    bench.store.poison = {message_id(4)}
    bench.store.failures.extend([None, None, StoreUnavailable("gone")])
    with pytest.raises(StoreUnavailable):
        await bench.persister.persist(0, messages(1, 4))
    await bench.persister.persist(0, messages(1, 4))
    assert bench.store.ids() == ids(1, 2, 3)
    assert set(bench.store.dead) == {message_id(4)}


async def test_figures_count_each_message_once_as_stored_or_as_duplicate() -> None:
    bench = Bench()
    one, two = message(1), message(2)
    await bench.persister.persist(0, [one, one, one, two])
    assert (bench.metrics.stored, bench.metrics.duplicates) == (2, 2)
    await bench.persister.persist(0, [two, message(3)])
    assert (bench.metrics.stored, bench.metrics.duplicates) == (3, 3)
    assert bench.metrics.batches == 2
    assert bench.metrics.accepted_to_stored_s.total == pytest.approx(4.0, abs=0.01)
