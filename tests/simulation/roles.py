"""A gateway and a processor as simulated processes: the real services, wired as the roles wire them."""

import asyncio

import attrs

from chatflow.adapters.websockets.driver import drive_chat, drive_ws
from chatflow.adapters.websockets.reading import read
from chatflow.domain.delivery.live_delivery import LiveDelivery
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.pending import Ref, Sink
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor, run_processors
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.ws import WsSession
from chatflow.ports.broker import Delivery, size_of
from chatflow.ports.messages import Message
from tests.simulation.broker import BrokerServer, SimulatedBroker, SimulatedLive
from tests.simulation.faults import Dice, Scenario
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.store import SimulatedStore, StoreServer
from tests.simulation.verdict import Verdict
from tests.simulation.wire import Connection

BREAKER = (4, 1.5)
"""Failures that open a breaker, and seconds until its probe."""
EPOCH_US = 1_780_000_000_000_000


@attrs.define(eq=False)
class Site:
    """What every process of a simulation can reach."""

    loop: SimulationLoop
    scenario: Scenario
    verdict: Verdict
    broker: BrokerServer
    store: StoreServer

    def now_us(self) -> int:
        return EPOCH_US + int(self.loop.time() * 1e6)


@attrs.define(eq=False)
class CheckedPublisher(IngestPublisher):
    """Says when more waits than may."""

    verdict: Verdict = attrs.field(kw_only=True)

    def offer(self, message: Message, sink: Sink, ref: Ref) -> None:
        super().offer(message, sink, ref)
        bound = self.limit_bytes + size_of(message)
        self.verdict.check(self.pending_bytes < bound, f"{self.pending_bytes} bytes wait for the broker")


@attrs.define
class CheckedBuffer(WriteBehindBuffer):
    """Says when it is made to take more than it may."""

    verdict: Verdict = attrs.field(kw_only=True)

    def add(self, delivery: Delivery) -> None:
        self.verdict.check(not self.is_full, f"a full buffer of {len(self)} messages was given more")
        super().add(delivery)


@attrs.define(eq=False)
class Gateway:
    """One incarnation of a gateway."""

    site: Site
    process: Process
    dice: Dice
    connections: list[Connection] = attrs.field(factory=list)
    broker: SimulatedBroker = attrs.field(init=False)
    context: GatewayContext = attrs.field(init=False)
    given_ids: int = 0

    def __attrs_post_init__(self) -> None:
        site, process, dice = self.site, self.process, self.dice
        sizes, clock = site.scenario.sizes, site.loop.time
        store = SimulatedStore(site.store, process, dice)
        self.broker = SimulatedBroker(site.broker, process, dice)
        publisher = CheckedPublisher(
            self.broker,
            CircuitBreaker(clock, *BREAKER),
            IngestMetrics(),
            clock,
            partitions=site.scenario.partitions,
            limit_bytes=sizes.accept_bytes,
            envelope_messages=sizes.envelope_messages,
            verdict=site.verdict,
        )
        self.context = GatewayContext(
            publisher,
            RoomHub(store, DeliveryMetrics(), replay_limit=sizes.replay, concurrent_reads=2),
            StoredAcks(store, clock),
            SessionMetrics(),
            MessageLimits(),
            Stamps(process.name, site.now_us, self._new_id),
            clock,
            inflight_per_connection=sizes.inflight,
            outbound_limit_bytes=sizes.outbound_bytes,
        )
        delivery = LiveDelivery(
            SimulatedLive(site.broker, process, dice),
            (self.context.hub, self.context.stored_acks),
            limit=sizes.live_queue,
            resync_s=1.0,
            resync_failed=lambda _: None,
        )
        for work in (publisher.run(), delivery.run()):
            site.loop.spawn(process, work)

    @property
    def is_quiet(self) -> bool:
        """Nothing was taken that is not settled."""
        return self.context.publisher.pending_bytes == 0 and len(self.context.stored_acks) == 0

    def serve(self, connection: Connection, protocol: str, room: str) -> None:
        """A client has connected."""
        self.connections.append(connection)
        self.site.loop.spawn(self.process, self._serve(connection, protocol, room))

    async def drain(self) -> None:
        """What `GatewayRole.drain` does."""
        await self.context.publisher.drain()
        await asyncio.sleep(0)
        for connection in self.connections:
            connection.close(1012, "restarting")
        await asyncio.sleep(1.0)

    async def _serve(self, connection: Connection, protocol: str, room: str) -> None:
        if protocol == "chat":
            driver = drive_chat(ChatSession(self.context, "", room), connection)
        else:
            driver = drive_ws(WsSession(self.context, "", "s"), connection)
        try:
            await read(connection, driver)
        finally:
            driver.close()
            self.connections.remove(connection)

    def _new_id(self) -> str:
        self.given_ids += 1
        return f"01980000-0000-7000-8000-{self.process.number:06x}{self.given_ids:06x}"


@attrs.define(eq=False)
class Processor:
    """One incarnation of a processor, with a loop for each partition."""

    site: Site
    process: Process
    dice: Dice
    loops: list[PartitionProcessor] = attrs.field(init=False)
    metrics: PersistenceMetrics = attrs.field(factory=PersistenceMetrics)
    running: "asyncio.Task[None]" = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        site, process, dice = self.site, self.process, self.dice
        sizes, clock = site.scenario.sizes, site.loop.time
        broker = SimulatedBroker(site.broker, process, dice)
        store, live = SimulatedStore(site.store, process, dice), SimulatedLive(site.broker, process, dice)
        persister = Persister(store, live, self.metrics, clock, site.now_us)
        policy = BatchPolicy(sizes.batch, sizes.batch * 2, sizes.batch * 3, 4, 8)
        self.loops = [
            PartitionProcessor(
                partition,
                broker,
                persister,
                CircuitBreaker(clock, *BREAKER),
                policy,
                self.metrics,
                new_buffer=lambda: CheckedBuffer(sizes.buffer_messages, 4_000, verdict=site.verdict),
                prefetch=sizes.prefetch,
                jitter=dice.rng.random,
            )
            for partition in range(site.scenario.partitions)
        ]
        self.running = site.loop.spawn(process, run_processors(self.loops))

    @property
    def is_quiet(self) -> bool:
        """It holds nothing."""
        return self.metrics.buffered == 0

    async def drain(self) -> None:
        """What `ProcessorRole.drain` does."""
        for each in self.loops:
            each.stop()
        await asyncio.wait((self.running,))
