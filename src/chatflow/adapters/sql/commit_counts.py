"""A second witness of what was committed: each processor's own count, per partition, kept beside the rows.

Rows, heads and summaries change in one transaction, so one that vanishes as a whole (on a server less durable than it
said, at a failover to a replica that was behind) leaves nothing that contradicts itself. But its processor remembers:
with each commit it says how many messages it had been told were committed before. See docs/adr/0017.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import attrs
import uuid_utils

from chatflow.domain.messages.rooms import is_known_room, partition_of

CountRow = tuple[str, int, int, int, int]
"""Of the table ``commit_counts``, in its order."""


@attrs.define(eq=False)
class CommitCounts:
    """What one processor has been told of its commits.

    Attributes:
        processor: unique per process start, since the counts begin at 0.
        partitions: P, of the broker.
    """

    processor: str = attrs.field(factory=lambda: str(uuid_utils.uuid7()))
    partitions: int = 8
    _committed: dict[int, int] = attrs.field(factory=lambda: defaultdict(int), init=False)
    _doubted: set[int] = attrs.field(factory=set, init=False)
    _under_way: dict[int, int] = attrs.field(factory=lambda: defaultdict(int), init=False)

    def enter(self, rooms: Iterable[object]) -> frozenset[int]:
        """Messages of these rooms are about to be stored; their partitions, to be handed to `leave`."""
        names = {room for room in rooms if type(room) is str}
        partitions = frozenset([partition_of(room, self.partitions) for room in names if is_known_room(room)])
        for partition in partitions:
            self._under_way[partition] += 1
        return partitions

    def leave(self, partitions: frozenset[int]) -> None:
        """They are stored, or not."""
        for partition in partitions:
            self._under_way[partition] -= 1

    def rows(self, new: Mapping[str, int]) -> list[CountRow]:
        """What a transaction writes that stores so many ``new`` messages in each room."""
        return [self._row(partition, count) for partition, count in sorted(self._by_partition(new).items())]

    def add(self, new: Mapping[str, int]) -> None:
        """The store says that this is committed."""
        for partition, count in self._by_partition(new).items():
            self._committed[partition] += count

    def doubt(self, partitions: frozenset[int]) -> None:
        """What was under way may be committed, or not: the store knows more than was told."""
        self._doubted |= partitions

    def doubted_rows(self, partitions: frozenset[int]) -> list[CountRow]:
        """What was told of these, to be written before it is read from the store again.

        A partition that another call stores to must wait: what is read would be told once more.
        """
        doubted = self._doubted and self._doubted & partitions
        return [self._row(partition, 0) for partition in sorted(doubted) if self._under_way[partition] == 1]

    def settle(self, committed: Mapping[int, int]) -> None:
        """What the store has counted, by partition."""
        for partition, count in committed.items():  # never less than was told: that is written before it is read
            self._committed[partition] = max(self._committed[partition], count)
        self._doubted -= committed.keys()

    def _row(self, partition: int, count: int) -> CountRow:
        return self.processor, partition, self.partitions, self._committed[partition] + count, count

    def _by_partition(self, new: Mapping[str, int]) -> dict[int, int]:
        counts: dict[int, int] = {}
        for room, count in new.items():
            partition = partition_of(room, self.partitions)
            counts[partition] = counts.get(partition, 0) + count
        return counts
