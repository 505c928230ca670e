"""After a refusal a sender's messages come in again oldest first, or are forgotten; nothing overtakes them."""

import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.ingest.sender_order import SenderOrder
from tests.harness.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def order(clock: FakeClock) -> SenderOrder:
    return SenderOrder(clock, repeat_within_s=2.0, limit=4)


def refuse(order: SenderOrder, *ids: str, out_of_turn: bool = False, room: str = "lobby") -> None:
    for each in ids:
        order.refused(room, each, int(each), out_of_turn=out_of_turn)


def test_nothing_is_remembered_while_nothing_is_refused(order: SenderOrder) -> None:
    assert order.admits("lobby", "1")
    order.accepted("lobby", "1")
    assert len(order) == 0


def test_only_the_oldest_refused_message_is_taken_again(order: SenderOrder) -> None:
    refuse(order, "1", "2")
    assert [order.admits("lobby", each) for each in ("3", "2", None)] == [False, False, False]
    assert [order.admits("lobby", each) for each in ("1", "2", "3")] == [True, True, True]


def test_another_room_is_not_held_up(order: SenderOrder) -> None:
    refuse(order, "1")
    assert order.admits("den", "2")


def test_what_arrived_first_comes_first_whatever_was_refused_first(order: SenderOrder) -> None:
    refuse(order, "3")
    refuse(order, "1", "2")
    assert [order.admits("lobby", each) for each in ("3", "1", "2", "3")] == [False, True, True, True]


def test_a_repeat_that_is_refused_again_keeps_its_place(order: SenderOrder) -> None:
    refuse(order, "1", "2")
    assert order.admits("lobby", "1")
    order.refused("lobby", "1", 9, out_of_turn=False)
    assert not order.admits("lobby", "2")
    assert order.admits("lobby", "1")


def test_a_room_is_forgotten_once_everything_is_accepted(order: SenderOrder) -> None:
    refuse(order, "1", "2")
    for each in ("1", "2"):
        assert order.admits("lobby", each)
        assert len(order) == 1
        order.accepted("lobby", each)
    assert len(order) == 0


def test_a_sender_that_repeats_nothing_goes_on_after_the_time_to_repeat(order: SenderOrder, clock: FakeClock) -> None:
    refuse(order, "1")
    for new in ("2", "3"):
        clock.advance(0.9)
        assert not order.admits("lobby", new)
        refuse(order, new, out_of_turn=True)
    clock.advance(0.3)
    assert order.admits("lobby", "4")
    assert len(order) == 0


def test_one_message_that_is_given_up_does_not_hold_up_those_that_are_repeated(
    order: SenderOrder, clock: FakeClock
) -> None:
    refuse(order, "1", "2")
    for _ in range(3):
        clock.advance(0.6)
        assert not order.admits("lobby", "2")
        refuse(order, "2", out_of_turn=True)
    clock.advance(0.6)
    assert order.admits("lobby", "2")


def test_an_outage_that_goes_on_does_not_make_the_order_lapse(order: SenderOrder, clock: FakeClock) -> None:
    refuse(order, "1", "2")
    for _ in range(10):
        clock.advance(1.5)
        assert order.admits("lobby", "1")
        refuse(order, "1")
        assert not order.admits("lobby", "2")
        refuse(order, "2", out_of_turn=True)


def test_memory_is_bounded_in_messages_and_in_rooms(order: SenderOrder) -> None:
    refuse(order, *map(str, range(1, 100)))
    assert not order.admits("lobby", "1")
    assert order.admits("lobby", "96")
    for room in range(100):
        refuse(order, "1", room=str(room))
    assert len(order) == 4


@attrs.define
class Wire:
    """A sender with a window, frames on their way in order, and a gateway that refuses at random for a while."""

    seed: int
    total: int
    window: int
    order: SenderOrder = attrs.field(factory=lambda: SenderOrder(FakeClock()))
    stored: list[int] = attrs.field(factory=list)
    there: list[int] = attrs.field(factory=list)
    back: list[tuple[int, bool]] = attrs.field(factory=list)

    def run(self) -> None:
        chance = random.Random(self.seed)
        unanswered: list[int] = []
        unsent, repeats = list(range(1, self.total + 1)), 0
        for step in range(10_000):
            can_send = unsent and len(unanswered) < self.window
            move = chance.choice(["send"] * bool(can_send) + ["arrive"] * bool(self.there) + ["hear"] * bool(self.back))
            if move == "send":
                unanswered.append(unsent[0])
                self.there.append(unsent.pop(0))
            elif move == "arrive":
                self.arrive(self.there.pop(0), refuse=step < 3_000 and chance.random() < 0.3)
            else:
                number, was_taken = self.back.pop(0)
                if was_taken:
                    unanswered.remove(number)
                else:
                    repeats += 1
                    self.there.append(number)  # at once, before it has heard of those behind
            if not (unsent or unanswered):
                return
        raise AssertionError(f"not done after {repeats} repeats")

    def arrive(self, number: int, *, refuse: bool) -> None:
        admitted = self.order.admits("lobby", str(number))
        if admitted and not refuse:
            self.stored.append(number)
            self.order.accepted("lobby", str(number))
        else:
            self.order.refused("lobby", str(number), number, out_of_turn=not admitted)
        self.back.append((number, admitted and not refuse))


@given(seed=st.integers(0, 2**32), window=st.integers(1, 32))
def test_whatever_is_refused_a_sender_that_repeats_is_stored_in_its_order(seed: int, window: int) -> None:
    wire = Wire(seed, total=60, window=window)
    wire.run()
    assert wire.stored == list(range(1, 61))
    assert len(wire.order) == 0
