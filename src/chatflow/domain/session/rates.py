"""How fast one connection, one user and one address may go: token buckets for sends, joins, pages of history, errors.

Over a rate the reader is paused, so TCP slows the sender down; a refusal would make it send again. Who is paused most
of the time for something that is no send is closed in the end. Buckets are kept by user only where users are proven,
and by address only where it says something: not for loopback.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import partial

import attrs

from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.pacing import Debt
from chatflow.ports.clock import Clock

BURST_S = 10.0
ABUSE_S = 150.0
"""A connection that is paused all the time is closed after twice as long."""

PARTIES_MAX = 10_000
"""Users, and addresses, whose buckets are remembered."""

SENDS_PER_LOOK = 16


class Action(StrEnum):
    """What is counted."""

    SEND = "send"
    JOIN = "join"
    PAGE = "page"
    ERROR = "error"


@attrs.frozen
class Rates:
    """Each second, on average; 0 for no limit."""

    sends: int
    joins: int
    pages: int
    errors: int

    def of(self, action: Action) -> int:
        """The rate of one action."""
        return {Action.SEND: self.sends, Action.JOIN: self.joins, Action.PAGE: self.pages, Action.ERROR: self.errors}[
            action
        ]


PER_CONNECTION = Rates(sends=10_000, joins=200, pages=200, errors=500)
PER_USER = Rates(sends=20_000, joins=400, pages=400, errors=1_000)
PER_ADDRESS = Rates(sends=100_000, joins=4_000, pages=4_000, errors=5_000)
"""The defaults, of the settings too: far over what a client that means well does, alone or as one of 700."""


@attrs.define(eq=False)
class TokenBucket:
    """Holds ``burst_s`` seconds of its rate. Kept as the moment at which it is full again (GCRA, ITU-T I.371)."""

    rate: float
    burst_s: float
    _paid_at: float = attrs.field(default=-math.inf, init=False)

    def spend(self, count: int, now: float) -> float:
        """Take so many tokens, more than there are if need be; seconds until they are there, at most 0 if they are."""
        self._paid_at = max(self._paid_at, now - self.burst_s) + count / self.rate
        return self._paid_at - now


Buckets = dict[Action, TokenBucket]


@attrs.define(eq=False)
class RateLimiter:
    """The buckets of one gateway.

    Args:
        burst_s: seconds of its rate that a bucket holds.
        abuse_s: see `ABUSE_S`.
    """

    clock: Clock
    metrics: SessionMetrics
    per_connection: Rates = PER_CONNECTION
    per_user: Rates = PER_USER
    per_address: Rates = PER_ADDRESS
    burst_s: float = BURST_S
    abuse_s: float = ABUSE_S
    _parties: dict[str, OrderedDict[Hashable, Buckets]] = attrs.field(
        factory=lambda: {"user": OrderedDict(), "address": OrderedDict()}, init=False
    )

    def connection(self, address: str, debt: Debt) -> "RateLimits":
        """The limits of a new connection from this address, ``""`` if that is not known; over them, ``debt`` is due."""
        limits = RateLimits(self, debt)
        limits.add(self._new(self.per_connection))
        if says_something(address):
            limits.add(self._known("address", address, self.per_address))
        return limits

    def user(self, user_id: int) -> Buckets:
        """The buckets of a user who was proven."""
        return self._known("user", user_id, self.per_user)

    def _known(self, kind: str, key: Hashable, rates: Rates) -> Buckets:
        parties = self._parties[kind]
        buckets = parties.get(key)
        if buckets is None:
            buckets = parties[key] = self._new(rates)
            if len(parties) > PARTIES_MAX:
                parties.popitem(last=False)
        parties.move_to_end(key)
        return buckets

    def _new(self, rates: Rates) -> Buckets:
        return {action: TokenBucket(rate, self.burst_s) for action in Action if (rate := rates.of(action))}


@attrs.define(eq=False)
class RateLimits:
    """What one connection may still do.

    Attributes:
        next_look: how many sends to count before `sent` is called.
        abused: called once if this goes on for too long.
    """

    limiter: RateLimiter
    debt: Debt
    next_look: int = SENDS_PER_LOOK
    abused: Callable[[], object] | None = None
    _buckets: dict[Action, list[TokenBucket]] = attrs.field(factory=lambda: {action: [] for action in Action})
    _user_id: int | None = attrs.field(default=None, init=False)
    _paused_until: float = attrs.field(default=-math.inf, init=False)
    _abuse_s: float = attrs.field(default=0.0, init=False)
    _abuse_at: float = attrs.field(default=-math.inf, init=False)

    def add(self, buckets: Buckets) -> None:
        """These count too."""
        for action, bucket in buckets.items():
            self._buckets[action].append(bucket)

    def enter(self, user_id: int) -> None:
        """The user is proven; again and again if tokens are refreshed."""
        if self._user_id is None:
            self._user_id = user_id
            self.add(self.limiter.user(user_id))

    def sent(self) -> None:
        """`SENDS_PER_LOOK` messages more have come."""
        self.next_look += SENDS_PER_LOOK
        self.spend(Action.SEND, SENDS_PER_LOOK)

    def spend(self, action: Action, count: int = 1) -> float:
        """Count; pauses the reader if that is too much. Seconds until it is not."""
        if not (buckets := self._buckets[action]):
            return 0.0
        now = self.limiter.clock()
        wait_s = max([bucket.spend(count, now) for bucket in buckets])
        if wait_s > 0:
            self._pause(action, now, now + wait_s)
        return wait_s

    def _pause(self, action: Action, now: float, until: float) -> None:
        metrics = self.limiter.metrics
        if self._paused_until <= now:
            metrics.rate_pauses += 1
        added_s = until - max(now, self._paused_until)
        self._paused_until = max(until, self._paused_until)
        self.debt.pause(self._paused_until)
        if action is Action.SEND or self.abused is None or added_s <= 0:
            return
        forgotten_s = (now - self._abuse_at) / 2
        self._abuse_s, self._abuse_at = max(0.0, self._abuse_s - forgotten_s) + added_s, now
        if self._abuse_s > self.limiter.abuse_s:
            metrics.rate_abusers_dropped += 1
            abused, self.abused = self.abused, None
            abused()


def says_something(address: str) -> bool:
    """Whether an address stands for somebody: one that is known, and not this machine."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def closing(end: Callable[[int, str], None], code: int) -> Callable[[], object]:
    """Close a connection that was too fast for too long."""
    return partial(end, code, "too much for too long")
