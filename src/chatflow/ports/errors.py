"""Every error that may cross a port.

    ChatflowError
    ├── BrokerError
    │   ├── BrokerUnavailable   retryable: down, blocked, or no confirm in time (outcome unknown)
    │   ├── BrokerFull          retryable: the queue's byte limit refused the envelope
    │   └── BrokerMisconfigured final: what is there is not what this program would declare; do not start
    ├── StoreError
    │   ├── StoreUnavailable    retryable: connection, lock, timeout (outcome unknown)
    │   ├── StoreOverloaded     retryable: the reader pool's waiting line is full
    │   ├── QueryTimeout        retryable: a read took longer than its deadline
    │   ├── RowRejected         final: the data itself cannot be stored; bisect, then dead-letter
    │   ├── SequenceCollision   final: two writers numbered one room; must never happen, must be loud
    │   └── SchemaMismatch      final: the database is older or newer than this program
    ├── CacheError
    │   └── CacheUnavailable    retryable: callers go on without the cache
    ├── IdentityError
    │   ├── TokenRefused        final: the token proves nothing; carries the fault
    │   └── IdentityUnavailable retryable: who could judge the token is away; nobody comes in meanwhile
    └── Refusal                 nothing was tried, so nothing is in doubt
        ├── BufferFull          retryable: a bounded buffer is at its limit
        ├── CircuitOpen         retryable: too many recent failures; carries when to try again
        └── Draining            retryable elsewhere: this process is shutting down

Adapters translate driver errors with ``raise ... from exc``; a caller branches on the class or on ``retryable``,
never on text.
"""

import enum
from collections.abc import Sequence
from typing import ClassVar


class ChatflowError(Exception):
    """Base of all errors that chatflow raises on purpose."""

    retryable: ClassVar[bool] = False


class BrokerError(ChatflowError):
    """The broker could not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The broker is down, blocked or silent; what was published may still have arrived."""

    retryable = True


class BrokerFull(BrokerError):
    """The broker refused an envelope because the queue's byte limit is reached."""

    retryable = True


class BrokerMisconfigured(BrokerError):
    """The broker holds something else than this program needs, or refuses it; nothing was declared.

    Attributes:
        differences: one sentence each, naming the queue, exchange or setting.
    """

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        super().__init__("; ".join(self.differences))


class StoreError(ChatflowError):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """A fault that a later try may not meet; a transaction under way has an unknown outcome."""

    retryable = True


class StoreOverloaded(StoreError):
    """More readers are waiting than the pool's limit allows."""

    retryable = True


class QueryTimeout(StoreError):
    """A read did not answer within its deadline."""

    retryable = True


class RowRejected(StoreError):
    """The store refuses the data: trying the same batch again cannot succeed."""


class SequenceCollision(StoreError):
    """A ``(room_id, seq)`` pair exists already: the head lock was bypassed."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"a room was numbered by two writers: {detail}")


class SchemaMismatch(StoreError):
    """The database schema is not the one that this program was built for.

    Attributes:
        found: revision in the database, ``None`` when it has no schema.
        expected: revision this program needs.
        is_newer: the program is the one that is out of date.
    """

    def __init__(self, *, found: str | None, expected: str, hint: str, is_newer: bool = False) -> None:
        self.found = found
        self.is_newer = is_newer
        self.expected = expected
        super().__init__(f"database schema is at {found or 'nothing'}, this program needs {expected}: {hint}")


class CacheError(ChatflowError):
    """The cache could not do what was asked."""


class CacheUnavailable(CacheError):
    """The cache is down or slow; every caller goes on without it."""

    retryable = True


class TokenFault(enum.StrEnum):
    """What is wrong with a token, as a stable word for logs, counters and clients."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    BAD_SIGNATURE = "bad_signature"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNKNOWN_KEY = "unknown_key"
    MALFORMED = "malformed"
    BAD_CLAIM = "bad_claim"
    REVOKED = "revoked"
    REFUSED = "refused"


class IdentityError(ChatflowError):
    """Nobody knows who somebody is."""


class TokenRefused(IdentityError):
    """The token proves nothing. The text never holds any of it.

    Attributes:
        fault: why.
        claim: the claim that is missing or wrong, with `TokenFault.BAD_CLAIM`.
    """

    def __init__(self, fault: TokenFault, claim: str = "") -> None:
        self.fault = fault
        self.claim = claim
        super().__init__(f"token refused: {fault}{f' {claim}' if claim else ''}")


class IdentityUnavailable(IdentityError):
    """The keys, or the service that judges tokens, are out of reach."""

    retryable = True


class Refusal(ChatflowError):
    """Refused before anything was tried."""

    retryable = True


class BufferFull(Refusal):
    """A bounded buffer is at its limit."""


class CircuitOpen(Refusal):
    """Too many failures lately.

    Attributes:
        retry_in_s: seconds until a probe is let through.
    """

    def __init__(self, *, retry_in_s: float) -> None:
        self.retry_in_s = retry_in_s
        super().__init__(f"circuit open, next probe in {retry_in_s:.1f} s")


class Draining(Refusal):
    """This process takes nothing new: it is shutting down."""
