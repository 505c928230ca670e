"""What the connections of one gateway share."""

import attrs

from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.session.memory_budget import MemoryBudget
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import Pacer
from chatflow.ports.clock import Clock


@attrs.frozen(eq=False)
class GatewayContext:
    """One gateway's services and settings.

    Attributes:
        protocol_errors_max: of one ``/ws`` connection; more close it, unless they are spread over minutes.
        connection_memory_bytes: what all connections together may hold before the largest is paused, then closed.
    """

    publisher: IngestPublisher
    hub: RoomHub
    stored_acks: StoredAcks
    metrics: SessionMetrics
    limits: MessageLimits
    stamps: Stamps
    clock: Clock
    heartbeat_s: float = 25
    hello_timeout_s: float = 10
    rooms_per_connection: int = 500
    inflight_per_connection: int = 1_024
    outbound_limit_bytes: int = 2**20
    protocol_errors_max: int = 128
    connection_memory_bytes: int = 64 * 2**20
    pacer: Pacer = attrs.field(init=False)
    memory: MemoryBudget = attrs.field(init=False)

    @pacer.default
    def _new_pacer(self) -> Pacer:
        return Pacer(self.clock)

    @memory.default
    def _new_memory(self) -> MemoryBudget:
        return MemoryBudget(self.connection_memory_bytes, self.metrics, self.clock)
