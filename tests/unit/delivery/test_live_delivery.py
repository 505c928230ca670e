import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from chatflow.domain.delivery.live_delivery import RESUBSCRIBE_PAUSE_S, LiveDelivery
from chatflow.ports.broker import LiveEnvelope
from chatflow.ports.errors import BrokerUnavailable, StoreError, StoreUnavailable
from tests.harness.waiting import eventually
from tests.unit.fakes import cancel, live, settle, stored

RESYNC_S = 30.0
DOWN = BrokerUnavailable("no broker")


@attrs.define(eq=False)
class Channel:
    """Brings what the test puts in; an exception breaks the subscription or the attempt to subscribe."""

    outcomes: deque[Exception | None] = attrs.field(factory=deque)
    items: "asyncio.Queue[LiveEnvelope | Exception | None]" = attrs.field(factory=asyncio.Queue)
    limits: list[int] = attrs.field(factory=list)

    async def subscribe(self, *, limit: int) -> "Channel":
        self.limits.append(limit)
        if self.outcomes and (outcome := self.outcomes.popleft()) is not None:
            raise outcome
        return self

    async def receive(self) -> LiveEnvelope | None:
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item


@attrs.define(eq=False)
class Listener:
    seen: list[int] = attrs.field(factory=list)
    resyncs: int = 0
    is_idle: bool = False
    down: StoreError | None = None

    def on_live(self, envelope: LiveEnvelope) -> None:
        self.seen += [each.seq for each in envelope.messages]

    async def resync(self) -> None:
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        self.resyncs += 1


@attrs.define(eq=False)
class Bench:
    channel: Channel = attrs.field(factory=Channel)
    listeners: tuple[Listener, Listener] = attrs.field(factory=lambda: (Listener(), Listener()))
    failures: list[StoreError] = attrs.field(factory=list)
    sleepers: list[tuple[float, "asyncio.Future[None]"]] = attrs.field(factory=list)

    async def sleep(self, seconds: float) -> None:
        self.sleepers.append((seconds, asyncio.get_running_loop().create_future()))
        await self.sleepers[-1][1]

    async def pass_time(self, seconds: float) -> None:
        """Wake whoever sleeps for so long."""
        await eventually(lambda: [each for each in self.sleepers if each[0] == seconds])
        woken, self.sleepers = (
            [each for each in self.sleepers if each[0] == seconds],
            [each for each in self.sleepers if each[0] != seconds],
        )
        for _, future in woken:
            future.set_result(None)
        await settle()

    @property
    def resyncs(self) -> list[int]:
        return [each.resyncs for each in self.listeners]


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Bench]]:
    tasks: list[asyncio.Task[None]] = []

    def start(*outcomes: Exception | None) -> Bench:
        bench = Bench()
        bench.channel.outcomes.extend(outcomes)
        delivery = LiveDelivery(
            bench.channel,
            bench.listeners,
            limit=7,
            resync_s=RESYNC_S,
            resync_failed=bench.failures.append,
            sleep=bench.sleep,
        )
        tasks.append(asyncio.get_running_loop().create_task(delivery.run()))
        return bench

    yield start
    assert not any(task.done() for task in tasks)
    await cancel(*tasks)


async def test_every_listener_gets_every_envelope_in_order(start) -> None:
    bench = start()
    for seq in (1, 2, 3):
        bench.channel.items.put_nowait(live([stored(seq)]))
    await settle()
    assert [each.seen for each in bench.listeners] == [[1, 2, 3]] * 2
    assert bench.resyncs == [0, 0]
    assert bench.channel.limits == [7]


async def test_after_a_loss_the_store_is_compared_and_the_subscription_goes_on(start) -> None:
    bench = start()
    bench.channel.items.put_nowait(None)
    bench.channel.items.put_nowait(live([stored(2)]))
    await settle()
    assert bench.resyncs == [1, 1]
    assert bench.listeners[0].seen == [2]
    assert bench.channel.limits == [7]


async def test_a_subscription_that_breaks_is_opened_again_after_a_pause_and_the_store_is_compared(start) -> None:
    bench = start()
    bench.channel.items.put_nowait(DOWN)
    await settle()
    assert bench.resyncs == [0, 0]
    await bench.pass_time(RESUBSCRIBE_PAUSE_S)
    assert bench.resyncs == [1, 1]
    assert bench.channel.limits == [7, 7]
    bench.channel.items.put_nowait(live([stored(5)]))
    await settle()
    assert bench.listeners[1].seen == [5]


async def test_a_broker_that_is_down_at_the_start_is_tried_until_it_is_there(start) -> None:
    bench = start(DOWN, DOWN)
    for _ in range(2):
        await bench.pass_time(RESUBSCRIBE_PAUSE_S)
    bench.channel.items.put_nowait(live([stored(1)]))
    await settle()
    assert bench.listeners[0].seen == [1]
    assert bench.channel.limits == [7, 7, 7]


async def test_the_store_is_compared_regularly_even_if_nothing_fails(start) -> None:
    bench = start()
    for count in (1, 2, 3):
        await bench.pass_time(RESYNC_S)
        assert bench.resyncs == [count, count]


async def test_a_store_that_fails_is_reported_and_compared_next_time(start) -> None:
    bench = start()
    bench.listeners[0].down = StoreUnavailable("down")
    await bench.pass_time(RESYNC_S)
    assert bench.failures == [bench.listeners[0].down]
    bench.listeners[0].down = None
    await bench.pass_time(RESYNC_S)
    assert bench.resyncs == [1, 1]


async def test_a_store_that_fails_after_a_loss_does_not_stop_the_deliveries(start) -> None:
    bench = start()
    bench.listeners[0].down = StoreUnavailable("down")
    bench.channel.items.put_nowait(None)
    bench.channel.items.put_nowait(live([stored(1)]))
    await settle()
    assert bench.failures == [bench.listeners[0].down]
    assert bench.listeners[1].seen == [1]


async def test_an_idle_listener_gets_no_envelopes_but_is_compared_all_the_same(start) -> None:
    bench = start()
    bench.listeners[0].is_idle = True
    bench.channel.items.put_nowait(live([stored(1)]))
    await settle()
    assert [each.seen for each in bench.listeners] == [[], [1]]
    await bench.pass_time(RESYNC_S)
    assert bench.resyncs == [1, 1]
