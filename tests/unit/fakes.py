"""Stand-ins with real semantics, which fail when told to: store, reader, cache, broker, live channel."""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import attrs

from chatflow.adapters.memory.store import MemoryStore
from chatflow.adapters.websockets.driver import SessionDriver
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.fairness import SenderShare
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.errors import Malformed
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.ports.broker import Envelope, LiveEnvelope, envelope_of
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import CacheUnavailable, ChatflowError, RowRejected
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import Appended
from tests.harness.clock import FakeClock

T = TypeVar("T")
EPOCH_US = 1_780_000_000_000_000


async def settle(turns: int = 25) -> None:
    """Let everything that can run without outside help run."""
    for _ in range(turns):
        await asyncio.sleep(0)


def hand_over(driver: SessionDriver, frame: str | bytes, most: int = sys.maxsize) -> int:
    """What the reader of a connection does with one frame; how many items are left."""
    try:
        value = driver.decode(frame)
    except Malformed:
        driver.session.receive_malformed(len(frame))
        left = 0
    else:
        left = driver.session.receive(value, len(frame), most)
    driver.perform()
    return left


def go_on(driver: SessionDriver, most: int) -> int:
    """What it does with the rest of a long frame."""
    left = driver.session.go_on(most)
    driver.perform()
    return left


async def cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def message(n: int, room: str = "lobby", *, text: str = "hi", user_id: int = 7) -> Message:
    return Message(message_id(n), room, user_id, "ada", text, "TEXT", EPOCH_US + n, EPOCH_US + n, "gw-1", "10.0.0.1")


def message_id(n: int) -> str:
    return f"01970000-0000-7000-8000-{n:012x}"


def messages(first: int, last: int, room: str = "lobby") -> list[Message]:
    return [message(n, room) for n in range(first, last + 1)]


def stored(seq: int, room: str = "lobby") -> StoredMessage:
    return StoredMessage(message(seq, room), seq)


def envelope(first: int, last: int, room: str = "lobby", partition: int = 0) -> Envelope:
    return envelope_of(partition, messages(first, last, room))


def live(items: Iterable[StoredMessage], partition: int = 0) -> LiveEnvelope:
    return LiveEnvelope(partition, tuple(items))


@attrs.define(eq=False)
class FakeStore:
    """Both sides of a store in memory, which refuses poison and fails when told to.

    Attributes:
        failures: raised by the next calls of ``append_batch``, one each; ``None`` lets a call through.
        lost_answers: the next commits succeed, but their callers get this error.
        down: raised by every call while it is set.
        poison: ids that no retry can store.
        calls: what was called, in order.
        pause: awaited by every read before it looks and before it answers.
        before_commit, after_commit: awaited by ``append_batch``.
    """

    memory: MemoryStore = attrs.field(factory=lambda: MemoryStore(lambda: EPOCH_US))
    poison: set[str] = attrs.field(factory=set)
    failures: deque[ChatflowError | None] = attrs.field(factory=deque)
    lost_answers: deque[ChatflowError] = attrs.field(factory=deque)
    dead_letter_failures: deque[ChatflowError] = attrs.field(factory=deque)
    down: ChatflowError | None = None
    calls: list[tuple[str, object]] = attrs.field(factory=list)
    pause: Callable[[], Awaitable[None]] = attrs.field(default=lambda: asyncio.sleep(0))
    before_commit: Callable[[Sequence[Message]], Awaitable[None]] = attrs.field(default=lambda _: asyncio.sleep(0))
    after_commit: Callable[[], Awaitable[None]] = attrs.field(default=lambda: asyncio.sleep(0))

    async def append_batch(self, messages: Sequence[Message]) -> Appended:
        self.calls.append(("append_batch", [m.message_id for m in messages]))
        await self.before_commit(messages)
        self._fail(self.failures)
        if any(m.message_id in self.poison for m in messages):
            raise RowRejected("a value is out of range")
        appended = await self.memory.append_batch(messages)
        await self.after_commit()
        if self.lost_answers:
            raise self.lost_answers.popleft()
        return appended

    async def add_dead_letter(self, message: Message, reason: str) -> None:
        self.calls.append(("add_dead_letter", message.message_id))
        self._fail(self.dead_letter_failures)
        await self.memory.add_dead_letter(message, reason)

    async def ping(self) -> None:
        self._fail(())

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        self.calls.append(("heads", list(room_ids)))
        return await self._read(lambda: self.memory.heads(room_ids))

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        self.calls.append(("room_range", (room_id, after_seq, limit)))
        return await self._read(lambda: self.memory.room_range(room_id, after_seq=after_seq, limit=limit))

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        self.calls.append(("locate", list(keys)))
        return await self._read(lambda: self.memory.locate(keys))

    def put(self, *items: Message) -> list[StoredMessage]:
        """Commit without a call: another process did it."""
        return [self.memory.tables.insert(m) for m in items]

    @property
    def rooms(self) -> dict[str, list[StoredMessage]]:
        return self.memory.tables.rooms

    @property
    def by_id(self) -> dict[str, StoredMessage]:
        return {row.message.message_id: row for row in self.memory.tables.rows}

    @property
    def dead(self) -> dict[str, str]:
        """Reasons by message id."""
        return {letter.message_id: letter.error_reason for letter in self.memory.tables.dead.values()}

    def ids(self, room: str = "lobby") -> list[str]:
        return [row.message.message_id for row in self.rooms.get(room, [])]

    def count(self, name: str) -> int:
        return sum(call == name for call, _ in self.calls)

    async def _read(self, query: Callable[[], Awaitable[T]]) -> T:
        await self.pause()
        self._fail(())
        answer = await query()
        await self.pause()
        return answer

    def _fail(self, failures: Sequence[ChatflowError | None]) -> None:
        if self.down is not None:
            raise self.down
        if isinstance(failures, deque) and failures and (failure := failures.popleft()) is not None:
            raise failure


@attrs.define(eq=False)
class FakeLive:
    """A live channel whose subscribers are plain functions, called at once."""

    subscribers: list[Callable[[LiveEnvelope], None]] = attrs.field(factory=list)
    published: list[LiveEnvelope] = attrs.field(factory=list)
    down: ChatflowError | None = None

    async def publish_live(self, envelope: LiveEnvelope) -> None:
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        self.published.append(envelope)
        for subscriber in self.subscribers:
            subscriber(envelope)


@attrs.define(eq=False)
class FakeCache:
    """A cache and its commit feed; remembers what was invalidated and published."""

    log: list[tuple[str, object]]
    down: CacheUnavailable | None = None

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        self._note("invalidate", tags)

    async def publish(self, commit: Commit) -> None:
        self._note("publish", (list(commit.tags), [each.seq for each in commit.stored]))

    def _note(self, name: str, what: object) -> None:
        self.log.append((name, what))
        if self.down is not None:
            raise self.down


@attrs.define(eq=False)
class FakeBroker:
    """Confirms at once, fails as told, or leaves each publish to the test.

    Attributes:
        outcomes: of the next publishes, ``None`` is a confirm; then everything is confirmed unless ``down`` is set.
        manual: publishes wait in ``waiting`` until the test settles them.
        attempts, confirmed: what was tried, and what was confirmed, in order.
    """

    outcomes: deque[Exception | None] = attrs.field(factory=deque)
    down: ChatflowError | None = None
    manual: bool = False
    attempts: list[Envelope] = attrs.field(factory=list)
    confirmed: list[Envelope] = attrs.field(factory=list)
    waiting: list[tuple[Envelope, asyncio.Future[None]]] = attrs.field(factory=list)

    async def publish(self, envelope: Envelope) -> None:
        self.attempts.append(envelope)
        if self.manual:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append((envelope, future))
            await future
        else:
            await asyncio.sleep(0)
            outcome = self.outcomes.popleft() if self.outcomes else self.down
            if outcome is not None:
                raise outcome
        self.confirmed.append(envelope)

    def confirm(self) -> None:
        """Confirm the oldest publish that waits."""
        self.waiting.pop(0)[1].set_result(None)

    def fail(self, error: ChatflowError) -> None:
        """Fail the oldest publish that waits."""
        self.waiting.pop(0)[1].set_exception(error)

    async def ping(self) -> None:
        if self.down is not None:
            raise self.down

    def confirmed_ids(self) -> list[str]:
        return [m.message_id for envelope in self.confirmed for m in envelope.messages]


@attrs.define(eq=False)
class RecordingSink:
    """Remembers what it was told, in order."""

    told: list[tuple[str, object]] = attrs.field(factory=list)
    share: SenderShare = attrs.field(factory=SenderShare)
    errors: list[ChatflowError] = attrs.field(factory=list)

    def accepted(self, message: Message, ref: object) -> None:
        self.told.append(("accepted", ref))

    def refused(self, message: Message, ref: object, error: ChatflowError) -> None:
        self.told.append(("refused", ref))
        self.errors.append(error)

    def refs(self, kind: str) -> list[object]:
        return [ref for what, ref in self.told if what == kind]


@attrs.define(eq=False)
class FakeGateway:
    """Everything that the connections of one gateway share, over fakes, with the publisher running."""

    clock: FakeClock = attrs.field(factory=FakeClock)
    broker: FakeBroker = attrs.field(factory=FakeBroker)
    store: FakeStore = attrs.field(factory=FakeStore)
    metrics: SessionMetrics = attrs.field(factory=SessionMetrics)
    settings: dict[str, object] = attrs.field(factory=dict)
    limit_bytes: int = 2**20
    publisher: IngestPublisher = attrs.field(init=False)
    context: GatewayContext = attrs.field(init=False)
    given_ids: int = attrs.field(default=0, init=False)
    _running: asyncio.Task[None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.publisher = IngestPublisher(
            self.broker,
            CircuitBreaker(self.clock),
            IngestMetrics(),
            self.clock,
            partitions=8,
            limit_bytes=self.limit_bytes,
            patience_s=0.0,
            sleep=self.clock.sleep,
        )
        self.context = GatewayContext(
            self.publisher,
            RoomHub(self.store, DeliveryMetrics()),
            StoredAcks(self.store, self.clock),
            self.metrics,
            MessageLimits(),
            Stamps("gw-1", lambda: EPOCH_US, self._new_id),
            self.clock,
            **self.settings,
        )
        self._running = asyncio.get_running_loop().create_task(self.publisher.run())

    @property
    def ingest(self) -> IngestMetrics:
        return self.publisher.metrics

    async def close(self) -> None:
        await cancel(self._running)

    def commit_confirmed(self) -> None:
        """What a processor does: store what the broker has, and say so on the live channel."""
        for each in self.broker.confirmed:
            rows = live(self.store.put(*each.messages), each.partition)
            self.context.hub.on_live(rows)
            self.context.stored_acks.on_live(rows)
        self.broker.confirmed.clear()

    def _new_id(self) -> str:
        self.given_ids += 1
        return message_id(self.given_ids)
