import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from unittest import mock

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatflow.domain.delivery import room_hub as delivering
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import PAGE, Encode, RoomHub
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.messages import StoredMessage
from tests.harness.waiting import eventually
from tests.unit.fakes import FakeStore, cancel, live, message, messages, settle, stored

GONE = StoreUnavailable("no store")


@attrs.define(eq=False)
class Encoder:
    """Frames that carry sequence numbers; counts how often it is asked."""

    calls: int = 0

    def __call__(self, items: Sequence[StoredMessage]) -> list[bytes]:
        self.calls += 1
        return [str(item.seq).encode() for item in items]


@attrs.define(eq=False)
class Client:
    """A subscriber that remembers, and that can be slow or gone."""

    encode: Encode = attrs.field(factory=Encoder)
    told: list[tuple[str, int, bool]] = attrs.field(factory=list)
    seqs: list[int] = attrs.field(factory=list)
    frames: list[Sequence[bytes]] = attrs.field(factory=list)
    has_room: asyncio.Event = attrs.field(factory=asyncio.Event)
    gone: bool = False
    asked: int = 0
    quick_pages: int = 0

    def __attrs_post_init__(self) -> None:
        self.has_room.set()

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        assert self.seqs == []
        self.told.append((room_id, head, recovered))

    def deliver(self, frames: Sequence[bytes]) -> None:
        assert self.told
        self.frames.append(frames)
        self.seqs += [int(frame) for frame in frames]

    async def ready_for(self, messages: int) -> bool:
        assert 1 <= messages <= PAGE
        self.asked += 1
        if self.asked > self.quick_pages:
            await self.has_room.wait()
        return not self.gone


@attrs.define(eq=False)
class Bench:
    store: FakeStore = attrs.field(factory=FakeStore)
    metrics: DeliveryMetrics = attrs.field(factory=DeliveryMetrics)
    replay_limit: int = 1_000
    tasks: list[asyncio.Task[None]] = attrs.field(factory=list)
    hub: RoomHub = attrs.field(init=False)
    slept: int = 0

    def __attrs_post_init__(self) -> None:
        self.hub = RoomHub(self.store, self.metrics, replay_limit=self.replay_limit, sleep=self.sleep)

    async def sleep(self, _: float) -> None:
        self.slept += 1
        await asyncio.sleep(0)

    def commit(self, count: int, room: str = "lobby", *, heard: bool = True) -> None:
        """Store messages; the hub hears of them unless the live channel loses them."""
        first = len(self.store.by_id) + 1
        rows = self.store.put(*messages(first, first + count - 1, room))
        if heard:
            self.hub.on_live(live(rows))

    def join(self, client: Client, since: int | None = None, room: str = "lobby") -> asyncio.Task[None]:
        task = asyncio.create_task(self.hub.join(room, client, since))
        self.tasks.append(task)
        return task

    async def joined(self, since: int | None = None, room: str = "lobby", encode: Encode | None = None) -> Client:
        client = Client(encode or Encoder())
        await asyncio.wait_for(self.hub.join(room, client, since), 5)
        return client


@attrs.define(eq=False)
class Reads:
    """Holds every read of the store, before it looks and before it answers, until the test lets it go on."""

    store: FakeStore
    waiting: list[asyncio.Future[None]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.store.pause = self._pause

    async def _pause(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    async def step(self) -> None:
        await eventually(lambda: self.waiting)
        future = self.waiting.pop(0)
        if not future.done():
            future.set_result(None)
        await settle()

    async def look(self) -> None:
        """One whole read: it looks, then it answers."""
        await self.step()
        await self.step()

    def release(self) -> None:
        self.store.pause = lambda: asyncio.sleep(0)
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await cancel(*bench.tasks)
    for room in tuple(bench.hub._rooms.values()):
        if room.repair is not None:
            await cancel(room.repair)


async def test_a_join_without_since_hears_only_what_is_new(bench: Bench) -> None:
    bench.commit(3)
    client = await bench.joined()
    assert client.told == [("lobby", 3, True)]
    assert client.seqs == []
    bench.commit(2)
    assert client.seqs == [4, 5]


async def test_a_join_of_a_room_that_nobody_wrote_in_starts_at_nothing(bench: Bench) -> None:
    client = await bench.joined()
    assert client.told == [("lobby", 0, True)]
    bench.commit(1)
    assert client.seqs == [1]


async def test_a_join_with_since_gets_what_it_missed_and_then_what_is_new(bench: Bench) -> None:
    bench.commit(5)
    client = await bench.joined(since=2)
    assert client.told == [("lobby", 5, True)]
    assert client.seqs == [3, 4, 5]
    bench.commit(1)
    assert client.seqs == [3, 4, 5, 6]


@pytest.mark.parametrize("since", [5, 6, 10**15])
async def test_a_since_at_or_beyond_the_head_replays_nothing(bench: Bench, since: int) -> None:
    bench.commit(5)
    client = await bench.joined(since=since)
    assert client.told == [("lobby", 5, since == 5)]
    bench.commit(1)
    assert client.seqs == [6]


async def test_a_long_replay_comes_page_by_page(bench: Bench) -> None:
    bench.commit(950)
    client = await bench.joined(since=0)
    assert client.seqs == list(range(1, 951))
    assert client.asked == 10
    assert [range_[1:] for name, range_ in bench.store.calls if name == "room_range"][-1] == (900, 50)
    assert all(len(frames) <= 100 for frames in client.frames)


async def test_who_missed_exactly_the_limit_is_recovered_and_who_missed_one_more_is_not() -> None:
    bench = Bench(replay_limit=10)
    bench.commit(11)
    within, beyond = await bench.joined(since=1), await bench.joined(since=0)
    assert within.told == [("lobby", 11, True)]
    assert within.seqs == list(range(2, 12))
    assert beyond.told == [("lobby", 11, False)]
    assert beyond.seqs == []
    bench.commit(1)
    assert beyond.seqs == [12]


async def test_a_room_hears_nothing_of_another_room(bench: Bench) -> None:
    lobby, den = await bench.joined(), await bench.joined(room="den")
    bench.hub.on_live(live([*bench.store.put(message(1)), *bench.store.put(message(2, "den"), message(3, "den"))]))
    assert (lobby.seqs, den.seqs) == ([1], [1, 2])


async def test_what_is_committed_while_the_head_is_read_is_heard_once(bench: Bench) -> None:
    bench.commit(2)
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client)
    await settle()
    bench.commit(1)  # before the store looks
    await reads.step()
    bench.commit(1)  # after it looked, before it answers
    await reads.step()
    reads.release()
    await join
    assert client.told == [("lobby", 3, True)]
    assert client.seqs == [4]
    bench.commit(1)
    assert client.seqs == [4, 5]


async def test_what_is_committed_while_the_past_is_read_is_heard_once_and_after_it(bench: Bench) -> None:
    bench.commit(2)
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client, since=0)
    await reads.look()
    bench.commit(1)
    await reads.step()
    bench.commit(1)
    reads.release()
    await join
    assert client.seqs == [1, 2, 3, 4]
    bench.commit(1)
    assert client.seqs == [1, 2, 3, 4, 5]


async def test_a_join_into_a_room_that_lags_behind_the_store_waits_for_the_repair(bench: Bench) -> None:
    first = await bench.joined()
    bench.commit(3, heard=False)
    second = await bench.joined(since=1)
    assert first.seqs == [1, 2, 3]
    assert second.told == [("lobby", 3, True)]
    assert second.seqs == [2, 3]
    bench.commit(1)
    assert (first.seqs, second.seqs) == ([1, 2, 3, 4], [2, 3, 4])


async def test_a_gap_is_filled_from_the_store_before_what_lies_above_it(bench: Bench) -> None:
    client = await bench.joined()
    bench.commit(2, heard=False)
    bench.commit(1)
    assert client.seqs == []
    await eventually(lambda: client.seqs)
    assert client.seqs == [1, 2, 3]
    assert bench.metrics.repaired == 2


async def test_a_gap_that_closes_by_itself_delivers_nothing_twice(bench: Bench) -> None:
    client = await bench.joined()
    reads = Reads(bench.store)
    rows = bench.store.put(*messages(1, 3))
    bench.hub.on_live(live(rows[1:2]))
    await reads.step()
    bench.hub.on_live(live([rows[0], rows[2]]))
    assert client.seqs == [1, 2, 3]
    reads.release()
    await settle()
    assert client.seqs == [1, 2, 3]


async def test_one_gap_after_another_is_filled(bench: Bench) -> None:
    client = await bench.joined()
    for last in (2, 4, 6):
        bench.commit(1, heard=False)
        bench.commit(1)
        await eventually(lambda last=last: len(client.seqs) == last)
    assert client.seqs == [1, 2, 3, 4, 5, 6]


async def test_a_wide_gap_is_filled_page_by_page(bench: Bench) -> None:
    client = await bench.joined()
    bench.commit(350, heard=False)
    bench.commit(1)
    await eventually(lambda: len(client.seqs) == 351)
    assert client.seqs == list(range(1, 352))


async def test_a_repair_goes_on_when_the_store_is_back(bench: Bench) -> None:
    client = await bench.joined()
    bench.store.down = GONE
    bench.commit(1, heard=False)
    bench.commit(1)
    await eventually(lambda: bench.slept >= 3)
    assert client.seqs == []
    bench.store.down = None
    await eventually(lambda: client.seqs)
    assert client.seqs == [1, 2]


async def test_a_resync_finds_a_lost_tail(bench: Bench) -> None:
    client, other = await bench.joined(), await bench.joined(room="den")
    bench.commit(2, heard=False)
    await settle()
    assert client.seqs == []
    await bench.hub.resync()
    await eventually(lambda: client.seqs)
    assert client.seqs == [1, 2]
    assert other.seqs == []


async def test_a_resync_that_cannot_read_says_so_and_the_next_one_repairs(bench: Bench) -> None:
    client = await bench.joined()
    bench.commit(1, heard=False)
    bench.store.down = GONE
    with pytest.raises(StoreUnavailable):
        await bench.hub.resync()
    bench.store.down = None
    await bench.hub.resync()
    await eventually(lambda: client.seqs == [1])


async def test_a_resync_while_a_room_is_left_touches_nothing(bench: Bench) -> None:
    client = await bench.joined()
    bench.commit(1, heard=False)
    reads = Reads(bench.store)
    resync = asyncio.create_task(bench.hub.resync())
    await reads.step()
    bench.hub.leave("lobby", client)
    reads.release()
    await resync
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle
    assert client.seqs == []


async def test_who_left_hears_nothing_more_and_an_empty_room_is_forgotten(bench: Bench) -> None:
    one, other = await bench.joined(), await bench.joined()
    bench.hub.leave("lobby", one)
    bench.commit(1)
    assert (one.seqs, other.seqs) == ([], [1])
    assert bench.hub.active_rooms == 1
    bench.hub.leave("lobby", other)
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle
    bench.commit(1)
    assert other.seqs == [1]


async def test_leaving_a_room_that_one_is_not_in_changes_nothing(bench: Bench) -> None:
    client = await bench.joined()
    bench.hub.leave("lobby", Client())
    bench.hub.leave("den", client)
    bench.commit(1)
    assert client.seqs == [1]


async def test_the_last_to_leave_ends_the_repair(bench: Bench) -> None:
    client = await bench.joined()
    bench.store.down = GONE
    bench.commit(1, heard=False)
    bench.commit(1)
    await eventually(lambda: bench.slept)
    bench.hub.leave("lobby", client)
    await settle()
    slept = bench.slept
    await settle()
    assert bench.slept == slept


async def test_who_comes_back_to_a_forgotten_room_finds_the_present_head(bench: Bench) -> None:
    first = await bench.joined()
    bench.commit(2)
    bench.hub.leave("lobby", first)
    bench.commit(2)
    second = await bench.joined(since=2)
    assert second.told == [("lobby", 4, True)]
    assert second.seqs == [3, 4]


async def test_leaving_while_the_head_is_read_ends_the_join_untold(bench: Bench) -> None:
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client, since=0)
    await reads.step()
    bench.hub.leave("lobby", client)
    await reads.step()
    reads.release()
    await asyncio.wait_for(join, 5)
    bench.commit(1)
    await settle()
    assert (client.told, client.seqs) == ([], [])
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle


async def test_a_room_that_was_left_before_it_started_is_not_repaired(bench: Bench) -> None:
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client)
    await reads.step()
    bench.commit(1, heard=False)
    bench.commit(1)
    bench.hub.leave("lobby", client)
    reads.release()
    await asyncio.wait_for(join, 5)
    await settle()
    assert bench.store.count("room_range") == 0


async def test_leaving_while_the_past_is_read_ends_the_join(bench: Bench) -> None:
    bench.commit(3)
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client, since=0)
    await reads.look()
    await reads.step()
    bench.hub.leave("lobby", client)
    reads.release()
    await asyncio.wait_for(join, 5)
    assert client.seqs == []
    bench.commit(1)
    assert client.seqs == []


async def test_leaving_while_the_room_is_repaired_ends_the_join(bench: Bench) -> None:
    first, second = await bench.joined(), Client()
    bench.commit(3, heard=False)
    reads = Reads(bench.store)
    join = bench.join(second)
    await reads.look()  # the heads; now the room is behind and repairs itself
    bench.hub.leave("lobby", first)
    bench.hub.leave("lobby", second)
    reads.release()
    await asyncio.wait_for(join, 5)
    assert (second.told, second.seqs) == ([], [])
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle


async def test_a_cancelled_join_leaves_the_room(bench: Bench) -> None:
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client)
    await reads.step()
    await cancel(join)
    reads.release()
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle


async def test_two_who_join_at_once_both_hear_everything(bench: Bench) -> None:
    bench.commit(2)
    reads = Reads(bench.store)
    one, other = Client(), Client()
    joins = [bench.join(one, since=0), bench.join(other, since=1)]
    await reads.step()  # both heads, in one read
    bench.commit(1)
    await reads.step()
    bench.commit(1)
    await reads.step()
    reads.release()
    await asyncio.gather(*joins)
    bench.commit(1)
    assert one.seqs == [1, 2, 3, 4, 5]
    assert other.seqs == [2, 3, 4, 5]


async def test_a_join_fails_when_the_heads_cannot_be_read(bench: Bench) -> None:
    bench.store.down = GONE
    client = Client()
    with pytest.raises(StoreUnavailable):
        await bench.hub.join("lobby", client, 0)
    assert client.told == []
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle


async def test_a_join_fails_when_the_past_cannot_be_read_and_others_stay(bench: Bench) -> None:
    bench.commit(2)
    other = await bench.joined()
    reads = Reads(bench.store)
    client = Client()
    join = bench.join(client, since=0)
    await reads.look()
    bench.store.down = GONE
    reads.release()
    with pytest.raises(StoreUnavailable):
        await join
    bench.store.down = None
    bench.commit(1)
    assert client.seqs == []
    assert other.seqs == [3]


async def test_a_reader_that_is_slow_during_the_replay_holds_up_nobody_and_misses_nothing(bench: Bench) -> None:
    bench.commit(250)
    other = await bench.joined()
    slow = Client(quick_pages=1)
    slow.has_room.clear()
    join = bench.join(slow, since=0)
    await eventually(lambda: slow.asked == 2)
    bench.commit(5)
    assert slow.seqs == list(range(1, 101))
    assert other.seqs == list(range(251, 256))
    slow.has_room.set()
    await join
    assert slow.seqs == list(range(1, 256))


async def test_the_past_is_not_read_before_its_reader_is_ready_for_it(bench: Bench) -> None:
    bench.commit(5)
    client = Client()
    client.has_room.clear()
    join = bench.join(client, since=0)
    await eventually(lambda: client.asked)
    await settle()
    assert bench.store.count("room_range") == 0
    client.has_room.set()
    await join
    assert client.seqs == [1, 2, 3, 4, 5]


async def test_a_reader_that_goes_away_during_the_replay_leaves_the_room(bench: Bench) -> None:
    bench.commit(250)
    client = Client(quick_pages=1)
    client.has_room.clear()
    join = bench.join(client, since=0)
    await eventually(lambda: client.asked == 2)
    client.gone = True
    client.has_room.set()
    await join
    assert client.seqs == list(range(1, 101))
    assert bench.hub.active_rooms == 0
    assert bench.hub.is_idle


async def test_more_than_can_be_kept_during_a_replay_is_read_from_the_store() -> None:
    bench = Bench(replay_limit=10)
    bench.commit(5)
    slow = Client()
    slow.has_room.clear()
    join = bench.join(slow, since=0)
    await eventually(lambda: slow.asked)
    bench.commit(8)
    bench.commit(8)
    bench.commit(1)
    slow.has_room.set()
    await join
    bench.commit(1)
    assert slow.seqs == list(range(1, 24))


async def test_joining_again_starts_over_from_the_new_since(bench: Bench) -> None:
    bench.commit(2)
    client = await bench.joined()
    client.told.clear()
    await bench.hub.join("lobby", client, 1)
    bench.commit(1)
    assert client.told == [("lobby", 2, True)]
    assert client.seqs == [2, 3]


async def test_one_encoding_serves_every_subscriber_of_a_kind(bench: Bench) -> None:
    plain, fancy = Encoder(), Encoder()
    clients = [await bench.joined(encode=plain) for _ in range(50)] + [await bench.joined(encode=fancy)]
    bench.commit(3)
    assert all(client.seqs == [1, 2, 3] for client in clients)
    assert (plain.calls, fancy.calls) == (1, 1)
    assert clients[0].frames[0] is clients[49].frames[0]
    assert bench.metrics.delivered == 153


async def test_messages_that_come_again_are_not_delivered_again(bench: Bench) -> None:
    client = await bench.joined()
    rows = bench.store.put(*messages(1, 3))
    bench.hub.on_live(live(rows))
    bench.hub.on_live(live(rows))
    bench.hub.on_live(live([stored(2)]))
    assert client.seqs == [1, 2, 3]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 4)),
        st.tuples(st.just("bring"), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5)),
        st.tuples(st.just("join"), st.none() | st.integers(0, 12)),
        st.tuples(st.just("leave"), st.floats(0, 1, exclude_max=True)),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("resync"), st.none()),
        st.tuples(st.just("turns"), st.integers(1, 6)),
    ),
    min_size=12,
    max_size=50,
)


ENCODER = Encoder()


@attrs.define(eq=False)
class Play:
    """Members come and go while the channel loses, doubles and delays, and reads take as long as ``delays`` say."""

    delays: list[int]
    bench: Bench
    rows: list[StoredMessage] = attrs.field(factory=list)
    present: list[tuple[Client, int | None, asyncio.Task[None]]] = attrs.field(factory=list)
    left: list[tuple[Client, int | None, list[int]]] = attrs.field(factory=list)
    reads: int = 0

    def __attrs_post_init__(self) -> None:
        self.bench.store.pause = self.pause

    async def pause(self) -> None:
        self.reads += 1
        for _ in range(self.delays[self.reads % len(self.delays)]):
            await asyncio.sleep(0)

    async def act(self, action: str, argument: object) -> None:
        match action, argument:
            case "commit", int(count):
                self.rows += self.bench.store.put(*messages(len(self.rows) + 1, len(self.rows) + count))
            case "bring", list(places) if self.rows:
                self.bench.hub.on_live(live(self.rows[int(place * len(self.rows))] for place in places))
            case "join", since:
                await self.join(since)
            case "leave", float(place) if self.present:
                self.leave(*self.present.pop(int(place * len(self.present))))
            case "fail", bool(fails):
                self.bench.store.down = GONE if fails else None
            case "resync", _:
                self.bench.tasks.append(asyncio.create_task(quiet_resync(self.bench.hub)))
            case "turns", int(turns):
                await settle(turns)

    async def join(self, since: int | None) -> None:
        client = Client(ENCODER)
        self.present.append((client, since, self.bench.join(client, since)))
        await asyncio.sleep(0)  # it is in the room now

    def leave(self, client: Client, since: int | None, _: asyncio.Task[None]) -> None:
        self.bench.hub.leave("lobby", client)
        self.left.append((client, since, list(client.seqs)))

    async def finish(self) -> None:
        """The store is back, and heads are compared once more: now everybody must have everything."""
        self.bench.store.down = None
        await eventually(lambda: all(task.done() for task in self.bench.tasks))
        await self.bench.hub.resync()
        members = [(client, since) for client, since, task in self.present if task.exception() is None]
        await eventually(lambda: all(is_complete(*member, len(self.rows)) for member in members))
        await settle()
        assert all(is_complete(*member, len(self.rows)) for member in members)
        assert all(client.seqs == before for client, _, before in self.left)
        for client, since, _ in self.present + self.left:
            check_order(client, since, self.bench.replay_limit)
        for client, _, _ in self.present:
            self.bench.hub.leave("lobby", client)
        assert self.bench.hub.active_rooms == 0
        assert self.bench.hub.is_idle


async def quiet_resync(hub: RoomHub) -> None:
    with suppress(StoreUnavailable):
        await hub.resync()


def start_of(client: Client, since: int | None) -> int:
    _, head, recovered = client.told[0]
    return since if since is not None and recovered else head


def is_complete(client: Client, since: int | None, total: int) -> bool:
    return start_of(client, since) + len(client.seqs) == total


def check_order(client: Client, since: int | None, replay_limit: int) -> None:
    if not client.told:
        assert client.seqs == []
        return
    ((_, head, recovered),) = client.told
    assert recovered == (since is None or 0 <= head - since <= replay_limit)
    start = start_of(client, since)
    assert client.seqs == list(range(start + 1, start + 1 + len(client.seqs)))


@settings(max_examples=150)
@given(actions, st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 8), st.integers(1, 3))
async def test_whatever_is_lost_doubled_late_or_failing_a_member_hears_each_message_once_in_order(
    script: list[tuple[str, object]], delays: list[int], replay_limit: int, page: int
) -> None:
    with mock.patch.object(delivering, "PAGE", page):
        play = Play(delays, Bench(replay_limit=replay_limit))
        for action, argument in script:
            await play.act(action, argument)
        await play.finish()
