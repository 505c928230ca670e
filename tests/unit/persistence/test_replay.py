"""A replay over a broker publishes first and forgets afterwards, whatever happens in between."""

import json
from collections import deque
from collections.abc import Callable

import attrs
import pytest

from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.persistence.replay import Outcome, Republisher, message_to_json, oldest
from chatflow.ports.broker import DeadEnvelope
from chatflow.ports.errors import BrokerFull, BrokerUnavailable, StoreUnavailable
from chatflow.ports.messages import Message
from chatflow.ports.store import DeadLetter
from tests.unit.fakes import FakeBroker, FakeStore, message

PARTITIONS = 8


@attrs.define
class FakeBox:
    """One dead letter, and the store's clock; ``add_dead_letter``: a processor meets the message once more."""

    letter: DeadLetter | None
    now: int = 100
    down: bool = False

    async def list_dead(self, *, limit: int, include_resolved: bool = False, after_id: int = 0) -> list[DeadLetter]:
        return []

    async def get_dead(self, dead_letter_id: int) -> DeadLetter | None:
        return self.letter

    async def mark_retried(self, dead_letter_id: int, *, resolved: bool) -> None:
        if self.letter is not None:
            self.now += 1
            tries = self.letter.retry_count + 1
            self.letter = attrs.evolve(self.letter, retry_count=tries, last_retry_us=self.now, resolved=resolved)

    async def resolve(self, letter: DeadLetter) -> bool:
        if self.down:
            raise StoreUnavailable("gone")
        unchanged = self.letter == letter
        if unchanged:
            self.letter = attrs.evolve(letter, resolved=True)
        return unchanged

    def add_dead_letter(self, reason: str) -> None:
        assert self.letter is not None
        self.now += 1
        self.letter = attrs.evolve(self.letter, error_reason=reason, last_retry_us=self.now, resolved=False)


@attrs.define(eq=False)
class FakeDead:
    """A dead queue; what is taken is put back at the end unless it was settled."""

    letters: deque[DeadEnvelope]
    taken: list[DeadEnvelope] = attrs.field(factory=list)
    down: bool = False

    async def waiting(self) -> int:
        return len(self.letters)

    async def take(self) -> DeadEnvelope | None:
        if not self.letters:
            return None
        self.taken.append(self.letters.popleft())
        return self.taken[-1]

    async def remove(self, envelope: DeadEnvelope) -> None:
        if self.down:
            raise BrokerUnavailable("gone")
        self.taken.remove(envelope)

    async def close(self) -> None:
        self.letters.extendleft(reversed(self.taken))
        self.taken.clear()


@attrs.define(eq=False)
class Hooked(FakeBroker):
    """Does something between a confirm and the publisher's next step."""

    then: Callable[[], object] = attrs.field(default=lambda: None)

    async def publish(self, envelope) -> None:
        await super().publish(envelope)
        self.then()


def letter(original: Message | str, **fields: object) -> DeadLetter:
    text = original if isinstance(original, str) else message_to_json(original)
    return attrs.evolve(DeadLetter(5, "an id", text, "a reason", 0, 0, None, resolved=False), **fields)


def dead_envelope(*messages: Message, unreadable: str = "") -> DeadEnvelope:
    return DeadEnvelope("abc", b"body", messages, unreadable, "rejected", "a queue", 1, 0.0, object())


async def test_a_row_is_published_as_it_was_with_its_id_to_its_partition_and_then_resolved() -> None:
    box, broker = FakeBox(letter(message(1, "attic"))), FakeBroker()
    result = await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)
    (published,) = broker.confirmed
    assert published.partition == partition_of("attic", PARTITIONS)
    assert published.messages == (message(1, "attic"),)
    assert (result.outcome, box.letter.resolved, box.letter.retry_count) == (Outcome.PUBLISHED, True, 1)


async def test_a_row_whose_id_stands_for_another_message_of_its_sender_is_refused_and_stays_open() -> None:
    box, broker, store = FakeBox(letter(message(1, "attic"))), FakeBroker(), FakeStore()
    store.put(message(1, "den"))
    result = await Republisher(broker, box, store, PARTITIONS).replay(box.letter)
    assert (result.outcome, broker.confirmed) == (Outcome.REFUSED, [])
    assert "message 1 of room den" in result.reason
    assert (box.letter.resolved, box.letter.retry_count) == (False, 1)


async def test_a_row_whose_id_stands_for_the_message_itself_or_for_somebody_elses_is_published() -> None:
    for first in (message(1, "attic"), message(1, "den", user_id=8)):
        box, broker, store = FakeBox(letter(message(1, "attic"))), FakeBroker(), FakeStore()
        store.put(first)
        result = await Republisher(broker, box, store, PARTITIONS).replay(box.letter)
        assert (result.outcome, box.letter.resolved, len(broker.confirmed)) == (Outcome.PUBLISHED, True, 1)


@pytest.mark.parametrize("error", [BrokerUnavailable("down"), BrokerFull("full")])
async def test_a_row_without_a_confirm_stays_open_and_the_try_is_counted(error) -> None:
    box, broker = FakeBox(letter(message(1))), FakeBroker(down=error)
    with pytest.raises(type(error)):
        await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)
    assert (box.letter.resolved, box.letter.retry_count) == (False, 1)


async def test_a_row_that_could_not_be_resolved_stays_open_and_is_published_again() -> None:
    box, broker = FakeBox(letter(message(1)), down=True), FakeBroker()
    again = Republisher(broker, box, FakeStore(), PARTITIONS)
    with pytest.raises(StoreUnavailable):
        await again.replay(box.letter)
    assert not box.letter.resolved
    box.down = False
    await again.replay(box.letter)
    assert box.letter.resolved
    assert broker.confirmed_ids() == [message(1).message_id] * 2


async def test_a_row_that_comes_back_before_it_was_resolved_stays_open() -> None:
    box = FakeBox(letter(message(1)))
    broker = Hooked(then=lambda: box.add_dead_letter("still too long"))
    result = await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)
    assert (result.outcome, result.reason) == (Outcome.REFUSED, "still too long")
    assert (box.letter.resolved, box.letter.retry_count) == (False, 1)


async def test_a_row_that_somebody_else_replays_at_the_same_time_is_left_to_the_later_one() -> None:
    box = FakeBox(letter(message(1)))

    def claim() -> None:
        box.letter = attrs.evolve(box.letter, retry_count=2, last_retry_us=999)

    result = await Republisher(Hooked(then=claim), box, FakeStore(), PARTITIONS).replay(box.letter)
    assert (result.outcome, box.letter.resolved) == (Outcome.PUBLISHED, False)


async def test_a_resolved_row_is_published_again_and_stays_resolved_even_without_a_confirm() -> None:
    box, broker = FakeBox(letter(message(1), resolved=True)), FakeBroker(outcomes=deque([BrokerUnavailable("down")]))
    with pytest.raises(BrokerUnavailable):
        await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)
    assert box.letter.resolved
    assert (await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)).outcome is Outcome.PUBLISHED


WRONG = [
    "{",
    "[]",
    json.dumps(attrs.asdict(message(1)) | {"user_id": "7"}),
    json.dumps(attrs.asdict(message(1)) | {"user_id": True}),
    json.dumps(attrs.asdict(message(1)) | {"room_id": None}),
    message_to_json(message(1, text="half \ud800 a character")),
    message_to_json(message(1, room="\ud800")),
]


@pytest.mark.parametrize("original", WRONG)
async def test_an_original_that_no_processor_could_read_is_not_sent_and_the_try_is_counted(original) -> None:
    box, broker = FakeBox(letter(original)), FakeBroker()
    result = await Republisher(broker, box, FakeStore(), PARTITIONS).replay(box.letter)
    assert result.outcome is Outcome.REFUSED
    assert "the original cannot be" in result.reason
    assert broker.attempts == []
    assert (box.letter.resolved, box.letter.retry_count) == (False, 1)


async def test_an_envelope_is_published_in_its_order_by_partition_and_then_settled() -> None:
    rooms = ["a", "b", "a", "c"]
    mixed = [message(n, room) for n, room in enumerate(rooms, 1)]
    dead, broker = FakeDead(deque([dead_envelope(*mixed)])), FakeBroker()
    again = Republisher(broker, FakeBox(None), FakeStore(), PARTITIONS)
    results = [await again.replay_envelope(each, dead) async for each in oldest(dead)]
    assert [result.outcome for result in results] == [Outcome.PUBLISHED]
    assert {each.partition for each in broker.confirmed} == {partition_of(room, PARTITIONS) for room in rooms}
    for each in broker.confirmed:
        mine = [m for m in mixed if partition_of(m.room_id, PARTITIONS) == each.partition]
        assert list(each.messages) == mine
    await dead.close()
    assert not dead.letters


async def test_an_envelope_that_could_not_be_settled_comes_back_and_is_published_again() -> None:
    dead, broker = FakeDead(deque([dead_envelope(message(1))]), down=True), FakeBroker()
    again = Republisher(broker, FakeBox(None), FakeStore(), PARTITIONS)
    with pytest.raises(BrokerUnavailable):
        [await again.replay_envelope(each, dead) async for each in oldest(dead)]
    await dead.close()
    assert len(dead.letters) == 1
    dead.down = False
    [await again.replay_envelope(each, dead) async for each in oldest(dead)]
    await dead.close()
    assert not dead.letters
    assert broker.confirmed_ids() == [message(1).message_id] * 2


async def test_an_envelope_without_a_confirm_for_each_of_its_parts_stays() -> None:
    dead = FakeDead(deque([dead_envelope(message(1, "a"), message(2, "b"))]))
    broker = FakeBroker(outcomes=deque([None, BrokerUnavailable("down")]))
    assert partition_of("a", PARTITIONS) != partition_of("b", PARTITIONS)
    with pytest.raises(BrokerUnavailable):
        [
            await Republisher(broker, FakeBox(None), FakeStore(), PARTITIONS).replay_envelope(each, dead)
            async for each in oldest(dead)
        ]
    await dead.close()
    assert len(dead.letters) == 1


async def test_an_envelope_that_cannot_be_read_stays_and_is_said_to_be_so() -> None:
    dead, broker = FakeDead(deque([dead_envelope(unreadable="not JSON")])), FakeBroker()
    again = Republisher(broker, FakeBox(None), FakeStore(), PARTITIONS)
    (result,) = [await again.replay_envelope(each, dead) async for each in oldest(dead)]
    assert (result.dead.id, result.outcome, result.message_ids) == ("abc", Outcome.REFUSED, ())
    assert "not JSON" in result.reason
    await dead.close()
    assert len(dead.letters) == 1
    assert broker.attempts == []


async def test_envelopes_that_die_again_while_they_are_replayed_do_not_keep_a_replay_going() -> None:
    dead = FakeDead(deque([dead_envelope(message(n)) for n in range(1, 4)]))
    broker = Hooked(then=lambda: dead.letters.append(dead_envelope(message(9))))
    again = Republisher(broker, FakeBox(None), FakeStore(), PARTITIONS)
    results = [await again.replay_envelope(each, dead) async for each in oldest(dead)]
    assert len(results) == 3
    assert len(dead.letters) == 3


async def test_a_list_takes_no_more_than_its_limit() -> None:
    dead = FakeDead(deque([dead_envelope(message(n)) for n in range(1, 6)]))
    assert len([each async for each in oldest(dead, limit=2)]) == 2
    assert len(dead.taken) == 2
