"""What senders of much may do to the others, on a clock that only messages move."""

from collections import defaultdict

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.ingest.fairness import (
    FIRST_WINDOW,
    LEAST,
    LIGHT_MEMORY,
    LIGHT_MEMORY_S,
    LIGHT_RATE,
    PROBE,
    WINDOW,
    HeavyBudget,
    HeavyLane,
    SenderShare,
)
from chatflow.domain.ingest.pending import PendingPublishes
from tests.unit.fakes import RecordingSink, message

ENVELOPE_S, MESSAGE_S = 0.001, 4e-5
"""What a confirm takes, and how much longer for each message."""

INFLIGHT = 1_024
POLITE, POLITE_EVERY_S = 50, 0.0025
SECONDS = 5.0


def sent(share: SenderShare, count: int, over_s: float, start: float = 0.0) -> None:
    """So many messages in so much time."""
    for n in range(count):
        share.left -= 1
        if share.left < 0:
            share.judge(start + n * over_s / count, LIGHT_RATE)


def heavy_share() -> SenderShare:
    share = SenderShare()
    sent(share, FIRST_WINDOW + 1, 0.0)
    assert share.is_heavy
    return share


@attrs.define(eq=False)
class OnePartition:
    """One envelope at a time; greedy senders always have as much under way as they may."""

    greedy: list[RecordingSink]
    clock: float = 0.0
    box: PendingPublishes = attrs.field(factory=PendingPublishes)
    budget: HeavyBudget = attrs.field(factory=lambda: HeavyBudget(1_000))
    under_way: dict[int, int] = attrs.field(factory=dict)
    took: list[float] = attrs.field(factory=list)

    def offer(self, sink: RecordingSink, ref: object) -> None:
        share = sink.share
        share.left -= 1
        if share.left < 0:
            share.judge(self.clock, LIGHT_RATE)
        self.box.add(message(1), sink, ref)

    def fill(self) -> None:
        for hog in self.greedy:
            for _ in range(INFLIGHT - self.under_way.get(id(hog), 0)):
                self.offer(hog, None)
            self.under_way[id(hog)] = INFLIGHT

    def confirm(self) -> None:
        if light := self.box.light:
            self.budget.served_light(self.clock, light)
        batch, _ = self.box.take(1_000, 2**20, self.budget.allowed(self.clock))
        confirm_s = ENVELOPE_S + len(batch) * MESSAGE_S
        self.clock += confirm_s
        self.budget.confirmed(self.clock, confirm_s)
        for _, sink, at in batch:
            if id(sink) in self.under_way:
                self.under_way[id(sink)] -= 1
            else:
                self.took.append(self.clock - at)


def polite_p99_s(greedy: int) -> float:
    partition = OnePartition([RecordingSink() for _ in range(greedy)])
    polite = [RecordingSink() for _ in range(POLITE)]
    due, number = 0.0, 0
    while partition.clock < SECONDS:
        partition.fill()
        while due <= partition.clock:
            partition.offer(polite[number % POLITE], due)
            due, number = due + POLITE_EVERY_S, number + 1
        if partition.box:
            partition.confirm()
        else:
            partition.clock = due
    took = partition.took
    return sorted(took[len(took) // 10 :])[-len(took) // 100]


@pytest.mark.parametrize("greedy", [1, 10, 100])
def test_senders_without_a_window_do_not_make_polite_ones_wait(greedy: int) -> None:
    assert polite_p99_s(greedy) <= 3 * polite_p99_s(0)


def test_a_sender_is_heavy_while_it_sends_faster_than_the_rate() -> None:
    share = SenderShare()
    sent(share, FIRST_WINDOW, 0.0)
    assert not share.is_heavy
    sent(share, WINDOW, 1.0, start=0.1)
    assert share.is_heavy
    sent(share, 2 * WINDOW, 2.1 * WINDOW / LIGHT_RATE, start=2.0)
    assert not share.is_heavy


def test_a_load_client_of_700_connections_is_light_at_20000_messages_a_second() -> None:
    share = SenderShare()
    for second in range(20):
        sent(share, 30, 1.0, start=float(second))
        assert not share.is_heavy


def test_light_senders_are_served_first_and_heavy_ones_in_turn() -> None:
    box, hogs, polite = PendingPublishes(), [RecordingSink(share=heavy_share()) for _ in range(3)], RecordingSink()
    for at, hog in enumerate(hogs):
        for n in range(10):
            box.add(message(n), hog, (at, n))
    box.add(message(1), polite, "polite")
    taken = [ref for _, _, ref in box.take(1_000, 2**20, 3)[0]]
    assert taken == ["polite", (0, 0), (1, 0), (2, 0)]
    assert [ref for _, _, ref in box.take(1_000, 2**20, 4)[0]] == [(0, 1), (1, 1), (2, 1), (0, 2)]
    assert [ref for _, _, ref in box.take(1_000, 2**20, 2)[0]] == [(1, 2), (2, 2)]


def test_heavy_senders_get_as_much_as_light_ones_when_these_send_much() -> None:
    box, hog = PendingPublishes(), RecordingSink(share=heavy_share())
    for n in range(100):
        box.add(message(n), hog, "heavy")
        box.add(message(n), RecordingSink(), "light")
    refs = [ref for _, _, ref in box.take(1_000, 2**20, 2)[0]]
    assert refs.count("light") == refs.count("heavy") == 100


def test_heavy_senders_are_not_starved_by_light_ones_that_fill_the_envelopes() -> None:
    box, hog = PendingPublishes(), RecordingSink(share=heavy_share())
    box.add(message(1), hog, "heavy")
    for n in range(100):
        box.add(message(n), RecordingSink(), "light")
    assert "heavy" in [ref for _, _, ref in box.take(16, 2**20, 2)[0]]


def test_what_waits_goes_with_a_sender_that_becomes_heavy() -> None:
    box, sink = PendingPublishes(), RecordingSink()
    box.add(message(1), sink, 1)
    sink.share.is_heavy = True
    box.add(message(2), sink, 2)
    box.add(message(3), RecordingSink(), "light")
    assert [ref for _, _, ref in box.take(1_000, 2**20, 1)[0]] == ["light", 1]
    assert [ref for _, _, ref in box.take(1_000, 2**20, 1)[0]] == [2]


def test_heavy_senders_get_less_while_confirms_are_slow_and_all_while_nobody_else_sends() -> None:
    budget = HeavyBudget(1_000)
    assert budget.allowed(0.0) == 1_000
    polite = SenderShare()
    budget.served_light(0.0, polite)
    for _ in range(PROBE):
        assert budget.allowed(0.0) == LEAST
        budget.confirmed(0.0, 0.01)
    for _ in range(50):
        budget.confirmed(0.0, 0.01)
    assert budget.allowed(0.1) == LEAST + 50
    for _ in range(10):
        budget.confirmed(0.0, 0.02)
    assert budget.allowed(0.1) == LEAST
    assert budget.allowed(LIGHT_MEMORY_S + 0.1) == 1_000


def test_a_burst_does_not_hold_back_the_sender_that_it_comes_from() -> None:
    budget, newcomer = HeavyBudget(1_000), SenderShare()
    budget.served_light(0.0, newcomer)
    assert budget.allowed(0.0) == LEAST
    newcomer.is_heavy = True
    assert budget.allowed(0.0) == 1_000


def test_newcomers_that_become_heavy_do_not_hide_light_senders() -> None:
    budget, newcomers = HeavyBudget(1_000), [SenderShare() for _ in range(LIGHT_MEMORY - 1)]
    budget.served_light(0.0, SenderShare())
    for newcomer in newcomers:
        budget.served_light(0.0, newcomer)
        newcomer.is_heavy = True
    assert budget.allowed(0.0) == LEAST


def test_partitions_of_heavy_senders_take_turns_while_light_ones_are_about() -> None:
    lane, polite = HeavyLane(HeavyBudget(1_000)), SenderShare()
    assert lane.enters(0, 0.0, None)
    assert lane.enters(1, 0.0, None)  # nobody else sends
    assert lane.leave(0, 0.0) == lane.leave(1, 0.0) == []
    assert lane.enters(7, 0.0, polite)
    assert [lane.enters(at, 0.1, None) for at in (0, 1, 2)] == [True, False, False]
    assert lane.enters(1, 0.1, polite)  # rides with the messages of light senders
    assert lane.leave(1, 0.2) == []  # the first one is under way
    assert lane.leave(0, 0.2) == [2]
    assert not lane.enters(0, 0.2, None)
    assert lane.enters(2, 0.2, None)
    assert not lane.enters(3, 0.2, None)
    assert lane.leave(2, LIGHT_MEMORY_S + 1.0) == [0, 3]


STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(["a", "x" * 500])),
    st.tuples(st.just("judge"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("take"), st.integers(1, 20), st.integers(1, 20)),
)


@given(st.lists(STEP, max_size=120))
def test_every_sender_keeps_its_order_and_nothing_is_left_out(steps: list[tuple[str, int, object]]) -> None:
    box, sinks = PendingPublishes(), [RecordingSink() for _ in range(4)]
    offered: dict[int, list[object]] = defaultdict(list)
    taken: dict[int, list[object]] = defaultdict(list)
    added = taken_bytes = number = 0

    def take(messages: int, heavy: int) -> None:
        nonlocal taken_bytes
        batch, size = box.take(messages, 2_000, heavy)
        assert bool(batch) == bool(size)
        assert len(batch) <= messages
        taken_bytes += size
        for _, sink, ref in batch:
            taken[sinks.index(sink)].append(ref)

    for what, first, second in steps:
        if what == "add":
            number += 1
            added += box.add(message(number, text=str(second)), sinks[first], number)
            offered[first].append(number)
        elif what == "judge":
            share = sinks[first].share
            if share.is_heavy and not second:
                share.settled.clear()
            share.is_heavy = bool(second)
        else:
            take(first, int(str(second)))
    while box:
        take(7, 3)
    assert taken == offered
    assert taken_bytes == added
