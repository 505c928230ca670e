"""An audit trail in memory, for tests: the newest entries, without summing up."""

from collections import deque
from typing import TYPE_CHECKING, Any, Unpack

import attrs

from chatflow.ports.audit_trail import AuditTrail, Facts


@attrs.define(eq=False)
class MemoryAuditTrail:
    """Keeps the newest 1,000 entries; each has an ``event`` beside its facts."""

    entries: deque[dict[str, Any]] = attrs.field(factory=lambda: deque(maxlen=1000), init=False)

    def signed_in(self, user_id: int, username: str, address: str, token_id: str = "") -> None:
        """See `AuditTrail.signed_in`."""
        who = {"user_id": user_id, "username": username, "address": address, "token_id": token_id}
        self.entries.append({"event": "session.signed_in", **who})

    def denied(self, reason: str, address: str, **facts: Unpack[Facts]) -> None:
        """See `AuditTrail.denied`."""
        self.entries.append({"event": "access.denied", "reason": reason, "address": address, **facts})

    def acted(self, action: str, by: str, **facts: Unpack[Facts]) -> None:
        """See `AuditTrail.acted`."""
        self.entries.append({"event": action, "by": by, **facts})


if TYPE_CHECKING:

    def _check(trail: MemoryAuditTrail) -> AuditTrail:
        return trail
