"""The guard alone: echoes are taken and reported by the test, timers run out when the test says so."""

import attrs
import pytest

from chatflow.domain.session.effects import Timer
from chatflow.domain.session.resend_guard import Echo, ResendGuard
from tests.unit.fakes import FakeClock


@attrs.define(eq=False)
class Bench:
    clock: FakeClock = attrs.field(factory=FakeClock)
    effects: list[Timer] = attrs.field(factory=list)
    guard: ResendGuard = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.guard = ResendGuard(self.clock, self.effects, limit_s=1.0)

    def refuse(self, room: str = "lobby", message_id: str | None = None, arrival: int = 1) -> None:
        self.guard.refused(room, message_id, arrival, out_of_turn=False)
        if message_id is not None:
            self.guard.sent(room, message_id)

    def ask(self) -> Echo:
        echo = self.guard.take_echo()
        assert echo is not None
        return echo


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_room_is_open_until_something_is_refused_and_nothing_is_asked(bench) -> None:
    assert bench.guard.admits("lobby", None)
    assert bench.guard.take_echo() is None
    assert bench.effects == []


def test_a_refusal_shuts_its_room_until_its_echo_is_back(bench) -> None:
    bench.refuse()
    assert not bench.guard.admits("lobby", None)
    assert bench.guard.admits("den", None)
    bench.guard.echoed(bench.ask())
    assert bench.guard.admits("lobby", None)
    assert bench.guard.take_echo() is None


def test_a_shut_room_admits_nothing_with_an_id_either(bench) -> None:
    bench.refuse()
    assert not bench.guard.admits("lobby", "a")


def test_while_an_echo_is_on_its_way_no_other_is_asked_for_its_room(bench) -> None:
    bench.refuse()
    bench.ask()
    bench.refuse()
    assert bench.guard.take_echo() is None


def test_a_refusal_during_the_echo_keeps_the_room_shut_for_another_one(bench) -> None:
    bench.refuse()
    echo = bench.ask()
    bench.refuse()
    bench.guard.echoed(echo)
    assert not bench.guard.admits("lobby", None)
    bench.guard.echoed(bench.ask())
    assert bench.guard.admits("lobby", None)


def test_a_peer_that_never_pauses_is_let_through_at_the_limit(bench) -> None:
    bench.refuse()
    for _ in range(10):
        echo = bench.ask()
        bench.refuse()  # it went on sending before it read
        bench.clock.advance(0.09)
        bench.guard.echoed(echo)
        assert not bench.guard.admits("lobby", None)
    echo = bench.ask()
    bench.refuse()
    bench.clock.advance(0.2)
    bench.guard.echoed(echo)
    assert bench.guard.admits("lobby", None)


def test_a_peer_that_does_not_answer_pings_is_let_through_by_the_timer(bench) -> None:
    bench.refuse()
    (timer,) = bench.effects
    assert timer.delay_s == 1.0
    bench.ask()
    timer.expired()
    assert bench.guard.admits("lobby", None)


def test_an_old_timer_and_an_old_echo_do_not_open_a_room_that_was_shut_again(bench) -> None:
    bench.refuse()
    first, (timer,) = bench.ask(), bench.effects
    timer.expired()
    bench.refuse()
    timer.expired()
    bench.guard.echoed(first)
    assert not bench.guard.admits("lobby", None)
    bench.guard.echoed(bench.ask())
    assert bench.guard.admits("lobby", None)


def test_rooms_are_shut_one_by_one(bench) -> None:
    bench.refuse()
    bench.refuse("den")
    echo = bench.ask()
    bench.refuse("den")
    bench.guard.echoed(echo)
    assert bench.guard.admits("lobby", None)
    assert not bench.guard.admits("den", None)


def test_one_echo_at_a_time_tells_of_refused_ids_and_the_next_of_those_that_came_meanwhile(bench) -> None:
    bench.refuse(message_id="a", arrival=1)
    echo = bench.ask()
    bench.refuse(message_id="b", arrival=2)
    assert bench.guard.take_echo() is None
    bench.guard.echoed(echo)
    assert bench.ask().told == [("lobby", "b")]


def test_the_time_to_repeat_begins_when_the_peer_has_been_told(bench) -> None:
    bench.refuse(message_id="a")
    bench.clock.advance(60.0)
    assert not bench.guard.admits("lobby", "b")
    bench.guard.echoed(bench.ask())
    bench.clock.advance(1.9)
    assert not bench.guard.admits("lobby", "b")
    bench.clock.advance(0.2)
    assert bench.guard.admits("lobby", "b")


def test_what_was_refused_comes_again_first(bench) -> None:
    bench.refuse(message_id="a", arrival=1)
    bench.refuse(message_id="b", arrival=2)
    bench.guard.echoed(bench.ask())
    assert not bench.guard.admits("lobby", "b")
    assert bench.guard.admits("lobby", "a")
    assert bench.guard.admits("lobby", "b")
