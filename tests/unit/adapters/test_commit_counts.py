"""What a processor remembers of its commits, without a store."""

import pytest

from chatflow.adapters.sql.commit_counts import CommitCounts
from chatflow.domain.messages.rooms import partition_of

ROOM = "lobby"
PARTITION = partition_of(ROOM, 8)


@pytest.fixture
def counts():
    return CommitCounts("one", 8)


def test_rows_add_what_is_new_to_what_was_told(counts):
    assert counts.rows({ROOM: 3}) == [("one", PARTITION, 8, 3, 3)]
    assert counts.rows({ROOM: 3}) == [("one", PARTITION, 8, 3, 3)], "nothing was told"
    counts.add({ROOM: 3})
    assert counts.rows({ROOM: 2}) == [("one", PARTITION, 8, 5, 2)]


def test_rows_come_by_partition_in_order():
    counts = CommitCounts("one", 2)
    new = {"a": 1, "b": 2, "c": 4, "d": 8}
    expected = [sum(count for room, count in new.items() if partition_of(room, 2) == partition) for partition in (0, 1)]
    assert all(expected)
    assert counts.rows(new) == [("one", partition, 2, count, count) for partition, count in enumerate(expected)]


def test_nothing_is_doubted_at_first(counts):
    assert counts.doubted_rows(counts.enter([ROOM])) == []


def test_what_is_doubted_is_told_again_until_the_store_has_answered(counts):
    counts.add({ROOM: 3})
    partitions = counts.enter([ROOM])
    counts.doubt(partitions)
    assert counts.doubted_rows(partitions) == [("one", PARTITION, 8, 3, 0)]
    counts.settle({PARTITION: 7})
    assert counts.doubted_rows(partitions) == []
    assert counts.rows({ROOM: 1}) == [("one", PARTITION, 8, 8, 1)]


def test_a_store_that_has_counted_less_does_not_lower_what_was_told(counts):
    counts.add({ROOM: 3})
    counts.settle({PARTITION: 1})
    assert counts.rows({ROOM: 1}) == [("one", PARTITION, 8, 4, 1)]


def test_a_partition_that_another_call_stores_to_is_settled_later(counts):
    mine, other = counts.enter([ROOM]), counts.enter([ROOM])
    counts.doubt(mine)
    assert counts.doubted_rows(mine) == []
    counts.leave(other)
    assert len(counts.doubted_rows(mine)) == 1


def test_only_the_partitions_asked_for_are_settled(counts):
    rooms = [f"r{number}" for number in range(20)]
    partitions = counts.enter(rooms)
    counts.doubt(partitions)
    counts.leave(partitions)
    assert [row[1] for row in counts.doubted_rows(counts.enter([ROOM]))] == [PARTITION]


def test_what_is_no_room_has_no_partition(counts):
    assert counts.enter([5, None, "", "ü", "a b", "\ud800", ["x"]]) == frozenset()
