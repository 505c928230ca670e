"""A broker of its own process and the gateways' and processors' ends of it, as untrustworthy as the port allows.

What has arrived is durable. Confirms, acks and the live channel may be lost, doubled and late; a consumer may be
deposed without knowing it and go on as if it owned its partition.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.broker import Broker, Consumer, Delivery, Envelope, LiveChannel, LiveEnvelope, LiveSubscription
from chatflow.ports.errors import BrokerFull, BrokerUnavailable
from chatflow.ports.messages import MessageKey
from tests.simulation.faults import Dice, Scenario
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.verdict import Verdict


@attrs.define(eq=False)
class _Entry:
    envelope: Envelope
    position: int
    deliveries: int = 0


@attrs.define(eq=False)
class _Queue:
    waiting: deque[_Entry] = attrs.field(factory=deque)
    size_bytes: int = 0
    arrived: int = 0
    consumers: list["SimulatedConsumer"] = attrs.field(factory=list)


@attrs.define(eq=False)
class BrokerServer:
    """Queues and subscriptions.

    Attributes:
        under_way: envelopes that were published and have neither arrived nor been lost.
        is_settled: whether a message is stored or dead, asked when it is acked.
    """

    loop: SimulationLoop
    scenario: Scenario
    verdict: Verdict
    dice: Dice
    queues: list[_Queue] = attrs.field(init=False)
    subscriptions: list["SimulatedSubscription"] = attrs.field(factory=list)
    under_way: int = 0
    is_down: bool = False

    def __attrs_post_init__(self) -> None:
        self.queues = [_Queue() for _ in range(self.scenario.partitions)]

    @property
    def is_quiet(self) -> bool:
        """Nothing is queued, unacked or under way."""
        return not self.under_way and all(queue.size_bytes == 0 for queue in self.queues)

    def arrive(self, envelope: Envelope, confirm: "_Confirm | None") -> None:
        """A published envelope gets here."""
        self.under_way -= 1
        if self.is_down:
            return
        queue = self.queues[envelope.partition]
        if queue.size_bytes + envelope.size_bytes > self.scenario.sizes.queue_bytes and queue.size_bytes:
            if confirm:
                self.loop.after(self.dice.latency(), confirm.nack)
            return
        queue.waiting.append(_Entry(envelope, queue.arrived))
        queue.arrived += 1
        queue.size_bytes += envelope.size_bytes
        if confirm:
            self.loop.after(self.dice.latency(), confirm.ack)
            if self.dice.meets(self.scenario.weather.confirm_doubled):
                self.loop.after(self.dice.latency(), confirm.ack)
        self.pump(queue)

    def pump(self, queue: _Queue) -> None:
        """Hand out what the active consumer may have."""
        while queue.waiting and queue.consumers and not self.is_down:
            consumer = queue.consumers[0]
            if len(consumer.unacked) >= consumer.prefetch:
                return
            entry = queue.waiting.popleft()
            consumer.tag += 1
            delivery = Delivery(entry.envelope, consumer.tag, redelivered=entry.deliveries > 0)
            entry.deliveries += 1
            consumer.unacked.append((delivery, entry))
            consumer.push(delivery)

    def on_ack(self, consumer: "SimulatedConsumer", tag: int) -> None:
        """An ack gets here; one of a deposed consumer says nothing."""
        if not consumer.is_attached or self.is_down:
            return
        while consumer.unacked and consumer.unacked[0][0].tag <= tag:
            _, entry = consumer.unacked.popleft()
            consumer.queue.size_bytes -= entry.envelope.size_bytes
            self.verdict.on_broker_ack(entry.envelope.messages)
        self.pump(consumer.queue)

    def depose(self, consumer: "SimulatedConsumer", notice_s: float) -> None:
        """Give what it has not acked to the next in line; it hears of that later and goes on meanwhile."""
        if not consumer.is_attached:
            return
        consumer.is_attached = False
        queue = consumer.queue
        queue.consumers.remove(consumer)
        queue.waiting.extendleft(entry for _, entry in reversed(consumer.unacked))
        consumer.unacked.clear()
        self.loop.after(notice_s, consumer.broken)
        self.pump(queue)

    def lost(self, process: Process, delay_s: float) -> None:
        """The connections of a dead process are closed."""
        self.loop.after(delay_s, self._forget, process)

    def go_down(self) -> None:
        """Everybody is disconnected; what has arrived stays."""
        self.is_down = True
        for queue in self.queues:
            for consumer in tuple(queue.consumers):
                self.depose(consumer, self.dice.latency())
        for subscription in tuple(self.subscriptions):
            self.subscriptions.remove(subscription)
            self.loop.after(self.dice.latency(), subscription.broken)

    def come_back(self) -> None:
        self.is_down = False

    def _forget(self, process: Process) -> None:
        for queue in self.queues:
            for consumer in tuple(queue.consumers):
                if consumer.process is process:
                    self.depose(consumer, 0.0)
        self.subscriptions = [each for each in self.subscriptions if each.process is not process]


@attrs.define(eq=False)
class _Confirm:
    """The publisher's end of one publish; a confirm that comes too late finds nobody."""

    broker: "SimulatedBroker"
    envelope: Envelope
    future: asyncio.Future[None]

    def ack(self) -> None:
        if not self.future.done():
            self.broker.confirmed.update(message.key for message in self.envelope.messages)
            self.future.set_result(None)

    def nack(self) -> None:
        if not self.future.done():
            self.future.set_exception(BrokerFull("no room"))


@attrs.define(eq=False)
class SimulatedBroker:
    """One process' connection.

    Attributes:
        confirmed: keys of the messages that this publisher has a confirm for.
    """

    server: BrokerServer
    process: Process
    dice: Dice
    confirmed: set[MessageKey] = attrs.field(factory=set)

    async def publish(self, envelope: Envelope) -> None:
        server, weather, dice = self.server, self.server.scenario.weather, self.dice
        timeout_s = server.scenario.sizes.confirm_timeout_ms / 1_000
        if server.is_down:
            raise BrokerUnavailable("down")
        future = server.loop.create_future()
        if not dice.meets(weather.publish_lost):
            confirm = None if dice.meets(weather.confirm_lost) else _Confirm(self, envelope, future)
            delay = timeout_s * dice.between(1.0, 5.0) if dice.meets(weather.publish_late) else dice.latency()
            server.under_way += 1
            server.loop.after(delay, server.arrive, envelope, confirm)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError as exc:
            raise BrokerUnavailable("no confirm") from exc

    async def consume(self, partition: int, *, prefetch: int) -> "SimulatedConsumer":
        await asyncio.sleep(self.dice.latency())
        if self.server.is_down:
            raise BrokerUnavailable("down")
        queue = self.server.queues[partition]
        consumer = SimulatedConsumer(self.server, self.process, self.dice, queue, prefetch)
        queue.consumers.append(consumer)
        self.server.pump(queue)
        return consumer

    @property
    def open_channels(self) -> int:
        return 0 if self.server.is_down else 1

    async def open(self) -> None:
        await self.ping()

    async def ping(self) -> None:
        if self.server.is_down:
            raise BrokerUnavailable("the server is down")

    async def close(self) -> None:
        """The simulation ends a role's connection, not the role itself."""


@attrs.define(eq=False)
class SimulatedConsumer:
    """A consumer's two ends: what the broker knows of it, and what has reached it."""

    server: BrokerServer
    process: Process
    dice: Dice
    queue: _Queue
    prefetch: int
    unacked: deque[tuple[Delivery, _Entry]] = attrs.field(factory=deque)
    tag: int = 0
    is_attached: bool = True
    _arrived: deque[Delivery] = attrs.field(factory=deque)
    _ready: asyncio.Event = attrs.field(factory=asyncio.Event)
    _is_broken: bool = False
    _there_at: float = 0.0
    _back_at: float = 0.0

    async def receive(self) -> Delivery:
        while not self._arrived:
            if self._is_broken:
                raise BrokerUnavailable("the consumer was deposed")
            self._ready.clear()
            await self._ready.wait()
        return self._arrived.popleft()

    def waiting(self) -> int:
        return sum(len(entry.envelope.messages) for entry in self.queue.waiting)

    async def ack(self, up_to: Delivery) -> None:
        if self._is_broken:
            raise BrokerUnavailable("the consumer was deposed")
        if self.dice.meets(self.server.scenario.weather.ack_lost):
            self.server.depose(self, 0.0)
            raise BrokerUnavailable("the stream broke")
        loop = self.server.loop
        self._back_at = max(self._back_at, loop.time() + self.dice.latency())
        loop.call_at(self._back_at, self.server.on_ack, self, up_to.tag, context=loop.world.context)

    async def close(self) -> None:
        self.server.depose(self, 0.0)

    def push(self, delivery: Delivery) -> None:
        """Deliver after a while, in order."""
        loop = self.server.loop
        self._there_at = max(self._there_at, loop.time() + self.dice.latency())
        loop.call_at(self._there_at, self._arrive, delivery, context=loop.world.context)

    def broken(self) -> None:
        """It hears that it was deposed."""
        self._is_broken = True
        self._ready.set()

    def _arrive(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        self._ready.set()


@attrs.define(eq=False)
class SimulatedLive:
    """The live channel from one process."""

    server: BrokerServer
    process: Process
    dice: Dice

    async def publish_live(self, envelope: LiveEnvelope) -> None:
        await asyncio.sleep(0)
        self.server.verdict.on_live(envelope.messages)
        weather, dice = self.server.scenario.weather, self.dice
        refused = self.server.is_down or dice.meets(weather.live_refused)
        if not refused or dice.meets(500):
            for subscription in self.server.subscriptions:
                subscription.offer(envelope, dice)
        if refused:
            raise BrokerUnavailable("nobody may have got it")

    async def subscribe(self, *, limit: int) -> "SimulatedSubscription":
        await asyncio.sleep(self.dice.latency())
        if self.server.is_down:
            raise BrokerUnavailable("down")
        subscription = SimulatedSubscription(self.server, self.process, limit)
        self.server.subscriptions.append(subscription)
        return subscription


@attrs.define(eq=False)
class SimulatedSubscription:
    """Bounded; an overflow is told as ``None``, a loss on the way is not."""

    server: BrokerServer
    process: Process
    limit: int
    _arrived: deque[LiveEnvelope | None] = attrs.field(factory=deque)
    _ready: asyncio.Event = attrs.field(factory=asyncio.Event)
    _is_broken: bool = False
    _there_at: float = 0.0

    def offer(self, envelope: LiveEnvelope, dice: Dice) -> None:
        """Send it on its way: none, one or two of it, in order or late."""
        weather, loop = self.server.scenario.weather, self.server.loop
        if dice.meets(weather.live_lost):
            return
        for _ in range(2 if dice.meets(weather.live_doubled) else 1):
            if dice.meets(weather.live_late):
                loop.after(dice.between(0.05, 1.0), self._arrive, envelope)
            else:
                self._there_at = max(self._there_at, loop.time() + dice.latency())
                loop.call_at(self._there_at, self._arrive, envelope, context=loop.world.context)

    async def receive(self) -> LiveEnvelope | None:
        while not self._arrived:
            if self._is_broken:
                raise BrokerUnavailable("the subscription broke")
            self._ready.clear()
            await self._ready.wait()
        return self._arrived.popleft()

    async def close(self) -> None:
        self.broken()

    def broken(self) -> None:
        self._is_broken = True
        self._ready.set()

    def _arrive(self, envelope: LiveEnvelope) -> None:
        if len(self._arrived) >= self.limit:
            self._arrived.clear()
            self._arrived.append(None)
        else:
            self._arrived.append(envelope)
        self._ready.set()


if TYPE_CHECKING:
    _broker: type[Broker] = SimulatedBroker
    _consumer: type[Consumer] = SimulatedConsumer
    _live: type[LiveChannel] = SimulatedLive
    _subscription: type[LiveSubscription] = SimulatedSubscription
