"""A second witness of what was committed: each processor's own count per partition, stored beside the rows.

Rows, heads and summaries change in one transaction, so one that vanishes as a whole (on a server less durable than it
said, at a failover to a replica that was behind) leaves nothing that contradicts itself. But its processor remembers:
with each commit it writes how many messages had been confirmed to it before. See docs/adr/0017.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import attrs
import uuid_utils

from chatflow.domain.messages.rooms import is_known_room, partition_of

CountRow = tuple[str, int, int, int, int]
"""A row of the table ``commit_counts``."""


@attrs.define(eq=False)
class CommitCounts:
    """How many messages the store has confirmed to one processor.

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
        """Begin to store messages of these rooms; returns their partitions, for `leave`."""
        names = {room for room in rooms if type(room) is str}
        partitions = frozenset([partition_of(room, self.partitions) for room in names if is_known_room(room)])
        for partition in partitions:
            self._under_way[partition] += 1
        return partitions

    def leave(self, partitions: frozenset[int]) -> None:
        """Storing has ended, whatever came of it."""
        for partition in partitions:
            self._under_way[partition] -= 1

    def rows(self, new: Mapping[str, int]) -> list[CountRow]:
        """The rows that a transaction writes which stores ``new`` messages by room."""
        return [self._row(partition, count) for partition, count in sorted(self._by_partition(new).items())]

    def add(self, new: Mapping[str, int]) -> None:
        """The store has confirmed a commit."""
        for partition, count in self._by_partition(new).items():
            self._committed[partition] += count

    def doubt(self, partitions: frozenset[int]) -> None:
        """The outcome is unknown, so the store may have counted more than it confirmed."""
        self._doubted |= partitions

    def doubted_rows(self, partitions: frozenset[int]) -> list[CountRow]:
        """The confirmed counts of doubted partitions, to be written before the store's are read.

        A partition that another call is storing to must wait: its messages would be counted twice.
        """
        doubted = self._doubted and self._doubted & partitions
        return [self._row(partition, 0) for partition in sorted(doubted) if self._under_way[partition] == 1]

    def settle(self, committed: Mapping[int, int]) -> None:
        """Adopt what the store has counted, by partition."""
        for partition, count in committed.items():  # never less than was confirmed: that is written before it is read
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
