"""A replay stores the original under its own id, so that trying twice changes nothing."""

import attrs
import pytest

from chatflow.domain.persistence.replay import (
    Outcome,
    UnreadableOriginal,
    message_from_json,
    message_to_json,
    replay_into_store,
)
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter
from tests.unit.fakes import FakeStore, message


@attrs.define
class FakeBox:
    """Remembers how each replay was marked."""

    marked: list[tuple[int, bool]] = attrs.field(factory=list)

    async def list_dead(self, *, limit: int, include_resolved: bool = False) -> list[DeadLetter]:
        return []

    async def get_dead(self, dead_letter_id: int) -> DeadLetter | None:
        return None

    async def mark_retried(self, dead_letter_id: int, *, resolved: bool) -> None:
        self.marked.append((dead_letter_id, resolved))


def letter(message_json: str) -> DeadLetter:
    return DeadLetter(5, "", message_json, "a reason", 0, 0, None, resolved=False)


async def test_a_replay_stores_the_original_and_resolves_the_letter_and_so_does_a_second_one() -> None:
    store, box = FakeStore(), FakeBox()
    again = letter(message_to_json(message(1)))
    first, second = await replay_into_store(again, store, box), await replay_into_store(again, store, box)
    assert (first.seq, second.seq) == (1, 1)
    assert box.marked == [(5, True), (5, True)]


async def test_what_is_refused_again_is_counted_and_stays_unresolved() -> None:
    store, box = FakeStore(), FakeBox()
    poison = message(1, text="poison")
    store.poison.add(poison.message_id)
    result = await replay_into_store(letter(message_to_json(poison)), store, box)
    assert result.seq is None
    assert result.reason
    assert box.marked == [(5, False)]


@pytest.mark.parametrize("first", [message(1, "den"), message(1, text="ho")], ids=["room", "text"])
async def test_an_original_whose_id_stands_for_another_message_of_its_sender_stays_unresolved(first: Message) -> None:
    store, box = FakeStore(), FakeBox()
    store.put(first)
    result = await replay_into_store(letter(message_to_json(message(1))), store, box)
    assert (result.outcome, box.marked) == (Outcome.REFUSED, [(5, False)])
    assert f"message 1 of room {first.room_id}" in result.reason


async def test_an_original_whose_id_somebody_else_used_is_stored() -> None:
    store, box = FakeStore(), FakeBox()
    store.put(message(1, user_id=8))
    result = await replay_into_store(letter(message_to_json(message(1, text="ho"))), store, box)
    assert (result.seq, box.marked) == (2, [(5, True)])


@pytest.mark.parametrize("broken", ["", "{", "[]", "7", "{}", '{"message_id":"x"}'])
async def test_an_original_that_is_no_message_is_said_to_be_unreadable(broken: str) -> None:
    box = FakeBox()
    result = await replay_into_store(letter(broken), FakeStore(), box)
    assert "cannot be read" in result.reason
    assert box.marked == [(5, False)]
    with pytest.raises(UnreadableOriginal):
        message_from_json(broken)


@pytest.mark.parametrize("text", ["plain", 'quotes " and \\', "\ud800 alone", "\0", "😀"])
def test_any_text_survives_as_ascii(text: str) -> None:
    original = message(1, text=text)
    kept = message_to_json(original)
    assert kept.isascii()
    assert message_from_json(kept) == original
