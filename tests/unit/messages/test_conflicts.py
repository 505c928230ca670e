import attrs
import pytest

from chatflow.domain.messages.conflicts import FoundConflicts, conflicting, conflicts
from chatflow.ports.messages import Message, StoredMessage
from tests.unit.fakes import message


def test_only_room_and_text_are_compared() -> None:
    first = message(1)
    again = attrs.evolve(first, username="bob", message_type="JOIN", sent_at_us=1, accepted_at_us=2, server_id="x")
    assert not conflicts(again, first)
    assert conflicts(attrs.evolve(first, text="ho"), first)
    assert conflicts(attrs.evolve(first, room_id="den"), first)


def test_conflicting_are_those_of_a_batch_that_differ_from_what_is_stored_under_their_key() -> None:
    first, other = message(1), message(1, text="ho")
    theirs, new = message(1, text="ho", user_id=8), message(2)
    shouted = attrs.evolve(other, message_id=other.message_id.upper())
    stored = [StoredMessage(first, 1), StoredMessage(theirs, 2), StoredMessage(new, 3)]
    assert list(conflicting([first, other, theirs, new, shouted], stored)) == [other, shouted]


def test_what_was_found_is_taken_once_by_the_very_same_message() -> None:
    found, one, twin = FoundConflicts(10), message(1), message(1)
    assert not found
    found.add(one)
    assert found
    assert not found.take(twin)
    assert found.take(one)
    assert not found.take(one)
    assert not found


@pytest.mark.parametrize("limit", [0, 3])
def test_the_oldest_is_forgotten_beyond_the_limit(limit: int) -> None:
    found = FoundConflicts(limit)
    kept: list[Message] = [message(n) for n in range(10)]
    for each in kept:
        found.add(each)
    assert len(found) == limit
    assert [found.take(each) for each in kept] == [False] * (10 - limit) + [True] * limit
