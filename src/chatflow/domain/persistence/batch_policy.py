"""How many messages one transaction takes: more as the backlog grows, so that a backlog shrinks."""

import attrs


@attrs.frozen
class BatchPolicy:
    """Batch sizes in messages by depth, where depth is what waits in the buffer and, if known, in the queue.

    Up to ``medium_depth`` waiting messages a batch holds ``small``; up to ``large_depth`` it holds ``medium``; above,
    ``large``. A flush never waits for a batch to fill, except for ``linger_s``.
    """

    small: int = 500
    medium: int = 2_000
    large: int = 3_000
    medium_depth: int = 5_000
    large_depth: int = 15_000
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
