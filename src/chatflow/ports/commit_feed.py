"""The feed of commits to the processes that cache: what each one touched, and its messages where there are few."""

from collections.abc import Callable
from typing import Protocol

import attrs

from chatflow.ports.messages import StoredMessage


@attrs.frozen
class Commit:
    """What one commit changed.

    Attributes:
        tags: the cache tags whose version it ended.
        stored: messages of the commit, ascending by ``seq``; of a room either all or none.
    """

    tags: tuple[str, ...]
    stored: tuple[StoredMessage, ...] = ()


Follower = Callable[[Commit | None], None]
"""Called with each commit, in order; ``None``: there may have been any."""


class CommitFeed(Protocol):
    """Processors publish, api processes follow.

    A follower hears every commit, also those of its own process, and every ``Cache.invalidate`` as a commit without
    messages.
    """

    async def publish(self, commit: Commit) -> None:
        """Invalidate the commit's tags in the shared cache and tell every follower, in one step.

        Raises:
            CacheUnavailable: the outcome is unknown. The adapter repeats the invalidation by itself, without the
                messages, until it succeeds.
        """

    def is_current(self) -> bool:
        """``False`` while a follower may be missing commits: no value that it keeps may be used."""

    async def follow(self, follower: Follower) -> None:
        """Call ``follower`` with each commit until cancelled.

        After any gap it is called with ``None`` before ``is_current`` turns true again.
        """
