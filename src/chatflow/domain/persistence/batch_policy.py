"""How many messages one batch takes: more as the backlog grows, so that a backlog shrinks."""

import attrs

SMALL, MEDIUM, LARGE = 500, 2_000, 3_000
MEDIUM_DEPTH, LARGE_DEPTH = 5_000, 15_000
"""The defaults, of the settings too."""


@attrs.frozen
class BatchPolicy:
    """Batch sizes in messages by depth, where depth is what waits in the buffer and, if known, in the queue.

    Up to ``medium_depth`` waiting messages a batch holds ``small``; up to ``large_depth`` it holds ``medium``; above,
    ``large``. A flush never waits for a batch to fill, except for ``linger_s``.
    """

    small: int = SMALL
    medium: int = MEDIUM
    large: int = LARGE
    medium_depth: int = MEDIUM_DEPTH
    large_depth: int = LARGE_DEPTH
    linger_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.small <= self.medium <= self.large:
            raise ValueError("batch sizes must be positive and must not shrink as the backlog grows")
        if not 0 <= self.medium_depth <= self.large_depth:
            raise ValueError("batch depths must not be negative and must be in order")
        if self.linger_s < 0:
            raise ValueError("linger must not be negative")

    def size_for(self, depth: int) -> int:
        """Messages that the next batch may hold."""
        if depth <= self.medium_depth:
            return self.small
        if depth <= self.large_depth:
            return self.medium
        return self.large
