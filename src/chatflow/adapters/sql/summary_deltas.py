"""What a batch adds to the summary tables, counted in one pass over its rows.

Counting here spares the database from reading the rows back, sorting and grouping them once per table, which is what
small batches suffer from most. See docs/adr/0009.
"""

from collections.abc import Iterable
from operator import itemgetter

import attrs


@attrs.frozen
class SummaryDeltas:
    """Rows for each summary table in key order, so that two writers lock them in the same one.

    Attributes:
        pairs: user, room, messages, latest acceptance.
        users: user, name with the greatest (acceptance, name), messages, latest acceptance.
        rooms: room, messages, latest acceptance.
    """

    pairs: list[tuple[int, str, int, int]]
    users: list[tuple[int, str, int, int]]
    rooms: list[tuple[str, int, int]]


def deltas_of(rows: Iterable[tuple[str, int, str, int]]) -> SummaryDeltas:
    """Count rows of room, user, username and acceptance time."""
    counted: dict[tuple[int, str], tuple[int, int, str]] = {}
    for room, user, name, at in rows:
        key = (user, room)
        if (known := counted.get(key)) is None:
            counted[key] = (1, at, name)
        else:
            counted[key] = (known[0] + 1, *max((at, name), known[1:]))
    return _added_up((user, room, *counted[user, room]) for user, room in sorted(counted))


def _added_up(counted: Iterable[tuple[int, str, int, int, str]]) -> SummaryDeltas:
    """Pairs come in the order of their users, so a user's are neighbours."""
    pairs: list[tuple[int, str, int, int]] = []
    users: list[tuple[int, str, int, int]] = []
    rooms: dict[str, tuple[int, int]] = {}
    last = None
    for user, room, count, at, name in counted:
        pairs.append((user, room, count, at))
        before, latest = rooms.get(room, (0, at))
        rooms[room] = (before + count, max(latest, at))
        mine = (user, name, count, at)
        users.append(mine if user != last else _joined(users.pop(), mine))
        last = user
    return SummaryDeltas(pairs, users, [(room, *rooms[room]) for room in sorted(rooms)])


def _joined(one: tuple[int, str, int, int], two: tuple[int, str, int, int]) -> tuple[int, str, int, int]:
    _, name, _, at = max(one, two, key=itemgetter(3, 1))
    return one[0], name, one[2] + two[2], at
