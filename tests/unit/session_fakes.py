"""A session's surroundings without an event loop: a publisher that does as it is told, and the context over it."""

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.ports.errors import BufferFull, ChatflowError
from chatflow.ports.messages import Message
from tests.unit.fakes import EPOCH_US, FakeClock, FakeStore

ROOMS = ("lobby", "den")
Offer = tuple[Message, Any, object]


@attrs.define(eq=False)
class ScriptedPublisher:
    """Accepts or refuses per room, oldest first; like `IngestPublisher` it refuses what waits behind a refusal too."""

    full: bool = False
    waiting: dict[str, deque[Offer]] = attrs.field(factory=lambda: {room: deque() for room in ROOMS})
    accepted: dict[str, list[Message]] = attrs.field(factory=lambda: {room: [] for room in ROOMS})

    serves_light = False

    def is_congested(self, share: object) -> bool:
        return False

    def offer(self, message: Message, sink: Any, ref: object) -> None:
        if self.full:
            raise BufferFull("full")
        self.waiting[message.room_id].append((message, sink, ref))

    def accept(self, room: str) -> None:
        message, sink, ref = self.waiting[room].popleft()
        self.accepted[room].append(message)
        sink.accepted(message, ref)

    def refuse(self, room: str, error: ChatflowError) -> None:
        waiting = self.waiting[room]
        batch = list(waiting)
        waiting.clear()
        for message, sink, ref in batch:
            sink.refused(message, ref, error)


def context_over(
    publisher: ScriptedPublisher,
    clock: FakeClock,
    new_id: Callable[[], str],
    now_us: Callable[[], int] = lambda: EPOCH_US,
    **more: Any,
) -> GatewayContext:
    store = FakeStore()
    return GatewayContext(
        publisher,
        RoomHub(store, DeliveryMetrics()),
        StoredAcks(store, clock),
        SessionMetrics(),
        MessageLimits(),
        Stamps("gw-1", now_us, new_id),
        clock,
        **({"protocol_errors_max": 10**6} | more),
    )
