"""What the connections of one gateway share."""

from weakref import WeakValueDictionary

import attrs

from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.fairness import SenderShare
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.session.memory_budget import MemoryBudget
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import Pacer
from chatflow.domain.session.quotas import Quotas
from chatflow.domain.session.rates import RateLimiter
from chatflow.domain.session.recent_ids import RecentIds
from chatflow.domain.session.roster import Roster
from chatflow.ports.audit_trail import AuditTrail
from chatflow.ports.clock import Clock
from chatflow.ports.identity import Authenticator, Revocations

HEARTBEAT_S, HELLO_TIMEOUT_S = 25.0, 10.0
FRAME_MAX_BYTES = 16_384
CONNECTIONS_MAX = 20_000
ROOMS_PER_CONNECTION = 500
INFLIGHT_PER_CONNECTION = 1_024
OUTBOUND_LIMIT_BYTES = 2**20
PROTOCOL_ERRORS_MAX = 128
CONNECTION_MEMORY_BYTES = 32 * 2**20
"""The defaults, of the settings too."""


@attrs.frozen(eq=False)
class GatewayContext:
    """One gateway's services and settings.

    Attributes:
        authenticator: reads tokens; ``None`` where nobody has to prove who they are.
        revocations: ``None`` where nothing is ever revoked.
        audit_trail: ``None`` where nobody keeps one.
        roster: who is connected.
        rates, quotas: how fast, and how much.
        protocol_errors_max: of one ``/ws`` connection; more close it, unless they are spread over minutes.
        recent_ids: what the senders' own ids stood for lately.
        connection_memory_bytes: what all connections together may hold before the largest is paused, then closed.
    """

    publisher: IngestPublisher
    hub: RoomHub
    stored_acks: StoredAcks
    metrics: SessionMetrics
    limits: MessageLimits
    stamps: Stamps
    clock: Clock
    heartbeat_s: float = HEARTBEAT_S
    hello_timeout_s: float = HELLO_TIMEOUT_S
    rooms_per_connection: int = ROOMS_PER_CONNECTION
    inflight_per_connection: int = INFLIGHT_PER_CONNECTION
    outbound_limit_bytes: int = OUTBOUND_LIMIT_BYTES
    protocol_errors_max: int = PROTOCOL_ERRORS_MAX
    connection_memory_bytes: int = CONNECTION_MEMORY_BYTES
    authenticator: Authenticator | None = None
    revocations: Revocations | None = None
    audit_trail: AuditTrail | None = None
    roster: Roster = attrs.field(factory=Roster, init=False)
    recent_ids: RecentIds = attrs.field(factory=RecentIds)
    rates: RateLimiter = attrs.field()
    quotas: Quotas = attrs.field()
    shares: WeakValueDictionary[int, SenderShare] = attrs.field(factory=WeakValueDictionary, init=False)
    pacer: Pacer = attrs.field(init=False)
    memory: MemoryBudget = attrs.field(init=False)

    def share_of(self, user_id: int) -> SenderShare:
        """What all connections of a proven user share."""
        share = self.shares.get(user_id)
        if share is None:
            share = self.shares[user_id] = SenderShare()
        return share

    @rates.default
    def _new_rates(self) -> RateLimiter:
        return RateLimiter(self.clock, self.metrics)

    @quotas.default
    def _new_quotas(self) -> Quotas:
        return Quotas(self.clock, self.metrics)

    @pacer.default
    def _new_pacer(self) -> Pacer:
        return Pacer(self.clock)

    @memory.default
    def _new_memory(self) -> MemoryBudget:
        return MemoryBudget(self.connection_memory_bytes, self.metrics, self.clock)
