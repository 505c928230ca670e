"""How long an answer may stay in a cache, which commits invalidate it, and when to refresh it early.

The bound on staleness of every family is its ``shared_ttl_s``: nothing older is ever served. A family with a
``stale_s`` spends the last part of that time being served while one caller refreshes it.
"""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from chatflow.ports.commit_feed import Commit
from chatflow.ports.messages import StoredMessage


class Family(enum.Enum):
    """Answers that share their lifetime and what invalidates them."""

    ROOM_NEWEST = "room_newest"
    ROOM_OLDER = "room_older"
    USER_NEWEST = "user_newest"
    USER_OLDER = "user_older"
    ANALYTICS = "analytics"
    TOTAL = "total"


class Freshness(enum.Enum):
    """What to do with a cached value: serve it, serve it and refresh it, or read again."""

    FRESH = "fresh"
    REFRESH = "refresh"
    EXPIRED = "expired"


@attrs.frozen
class FamilyRule:
    """One family's lifetimes, in seconds.

    Attributes:
        local_ttl_s: in the local cache.
        shared_ttl_s: in the shared cache; the bound on staleness.
        stale_s: the last part of ``shared_ttl_s`` in which the value is served while one caller refreshes it;
            0: never served while refreshing.
    """

    local_ttl_s: float
    shared_ttl_s: float
    stale_s: float = 0.0


RULES: Mapping[Family, FamilyRule] = {
    Family.ROOM_NEWEST: FamilyRule(local_ttl_s=1, shared_ttl_s=10),
    Family.ROOM_OLDER: FamilyRule(local_ttl_s=60, shared_ttl_s=300),
    Family.USER_NEWEST: FamilyRule(local_ttl_s=1, shared_ttl_s=5),
    Family.USER_OLDER: FamilyRule(local_ttl_s=60, shared_ttl_s=300),
    Family.ANALYTICS: FamilyRule(local_ttl_s=5, shared_ttl_s=30, stale_s=10),
    Family.TOTAL: FamilyRule(local_ttl_s=1, shared_ttl_s=3, stale_s=1),
}

_BY_ROOM = frozenset({Family.ROOM_NEWEST})
_BY_USER = frozenset({Family.USER_NEWEST, Family.USER_OLDER})


@attrs.frozen
class CachePolicy:
    """Pure decisions about cached answers.

    Attributes:
        user_buckets: user tags fold into this many, so that a batch of any size invalidates no more of them; every
            process must use the same number.
        feed_messages: most messages of a commit that the feed carries; a larger commit brings only its tags, since its
            followers would be sent more than they would read.
        eagerness: above 1 refreshes earlier, below 1 later.
    """

    user_buckets: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    feed_messages: int = attrs.field(default=128, validator=attrs.validators.ge(0))
    eagerness: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    rules: Mapping[Family, FamilyRule] = attrs.field(default=RULES)

    def rule(self, family: Family) -> FamilyRule:
        """The lifetimes of a family."""
        return self.rules[family]

    def room_tag(self, room_id: str) -> str:
        """The tag that a commit to this room raises."""
        return f"room:{room_id}"

    def user_tag(self, user_id: int) -> str:
        """The tag that a commit by this user, or by another one in the same bucket, raises."""
        return f"user:{user_id % self.user_buckets}"

    def tags(self, family: Family, *, room_id: str = "", user_id: int = 0) -> tuple[str, ...]:
        """What invalidates an answer about this room or user; empty when only time does.

        An older room page lies below a committed ``seq`` and so never changes. An older user page may still gain a
        message, since users are ordered by acceptance and rooms commit independently.
        """
        if family in _BY_ROOM:
            return (self.room_tag(room_id),)
        if family in _BY_USER:
            return (self.user_tag(user_id),)
        return ()

    def touched(self, stored: Iterable[StoredMessage]) -> list[str]:
        """Every distinct tag that the commit of these messages must invalidate, sorted."""
        tags: set[str] = set()
        for entry in stored:
            tags.add(self.room_tag(entry.message.room_id))
            tags.add(self.user_tag(entry.message.user_id))
        return sorted(tags)

    def commit_of(self, stored: Sequence[StoredMessage]) -> Commit:
        """What the feed carries of the commit of these messages."""
        carried = sorted(stored, key=lambda entry: entry.seq) if len(stored) <= self.feed_messages else ()
        return Commit(tuple(self.touched(stored)), tuple(carried))

    def freshness(self, family: Family, *, age_s: float, cost_s: float, draw: float) -> Freshness:
        """Decide about a value of this age.

        Early refresh is XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention,
        VLDB 2015): the dearer the value and the nearer its end, the likelier one caller renews it ahead of time.

        Args:
            family: of the value.
            age_s: seconds since it was stored.
            cost_s: seconds that reading it from the store took lately.
            draw: a uniform random number in ``[0, 1]``.
        """
        rule = self.rules[family]
        if age_s >= rule.shared_ttl_s:
            return Freshness.EXPIRED
        if not rule.stale_s:
            return Freshness.FRESH
        head_start_s = -cost_s * self.eagerness * math.log(max(draw, 1e-12))
        due = age_s + head_start_s >= rule.shared_ttl_s - rule.stale_s
        return Freshness.REFRESH if due else Freshness.FRESH
