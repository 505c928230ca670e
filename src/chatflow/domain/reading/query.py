"""One read, as a value: what to look for in caches, and how to read it from the store."""

from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.reading.cache_policy import Family


@attrs.frozen
class Reading:
    """What reading the store gave.

    Attributes:
        encoded: the answer as the edge encodes it.
        head: of a room page: the room's last ``seq`` was at least this when it was read; else 0.
    """

    encoded: bytes
    head: int = 0


@attrs.frozen(eq=False)
class Query:
    """One read.

    Attributes:
        name: the kind of query, for metrics.
        key: equal keys have equal answers.
        tags: what invalidates the answer.
        read: reads the store.
        at_hand: the answer without the store, and the seconds for which it may be kept; ``None`` if not known.
        min_head: an answer of a lower head does not count.
        catch_up: waits until the store's head is not below ``min_head``; raises ``Behind`` after a while.
    """

    name: str
    key: str
    family: Family
    tags: tuple[str, ...]
    read: Callable[[], Awaitable[Reading]]
    at_hand: Callable[[], tuple[Reading, float] | None] | None = attrs.field(default=None, kw_only=True)
    min_head: int = attrs.field(default=0, kw_only=True)
    catch_up: Callable[[], Awaitable[None]] | None = attrs.field(default=None, kw_only=True)
