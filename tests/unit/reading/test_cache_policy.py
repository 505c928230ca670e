"""Lifetimes, tags and refresh decisions of cached answers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.reading.cache_policy import RULES, CachePolicy, Family, Freshness
from tests.reading_fakes import ListStore

policy = CachePolicy()
TIMED = [family for family in Family if RULES[family].stale_s]
TAGGED = [family for family in Family if not RULES[family].stale_s]


@pytest.mark.parametrize(
    ("family", "local_ttl_s", "shared_ttl_s"),
    [
        (Family.ROOM_NEWEST, 1, 10),
        (Family.ROOM_OLDER, 60, 300),
        (Family.USER_NEWEST, 1, 5),
        (Family.ANALYTICS, 5, 30),
        (Family.TOTAL, 1, 3),
    ],
)
def test_each_family_lives_as_long_as_it_is_meant_to(family, local_ttl_s, shared_ttl_s):
    assert (policy.rule(family).local_ttl_s, policy.rule(family).shared_ttl_s) == (local_ttl_s, shared_ttl_s)


def test_a_commit_touches_the_tags_of_its_rooms_and_users_and_nothing_else():
    store = ListStore()
    store.add("lobby", user_id=7)
    store.add("lobby", user_id=8)
    store.add("5", user_id=7)
    assert policy.touched(store.rows) == ["room:5", "room:lobby", "user:7", "user:8"]


@pytest.mark.parametrize("family", [Family.ROOM_NEWEST, Family.USER_NEWEST, Family.USER_OLDER])
def test_what_a_commit_touches_covers_the_tags_of_every_page_it_changes(family):
    stored = ListStore().add("lobby", user_id=12345)
    tags = policy.tags(family, room_id="lobby", user_id=12345)
    assert tags
    assert set(tags) <= set(policy.touched([stored]))


@pytest.mark.parametrize("family", [Family.ROOM_OLDER, Family.ANALYTICS, Family.TOTAL])
def test_older_room_pages_and_analytics_end_by_time_only(family):
    assert policy.tags(family, room_id="lobby", user_id=1) == ()


@given(st.lists(st.integers(1, 2**53 - 1), max_size=300), st.integers(1, 16))
def test_any_number_of_users_touches_at_most_as_many_tags_as_there_are_buckets(users, buckets):
    folding = CachePolicy(user_buckets=buckets)
    store = ListStore()
    tags = {folding.user_tag(user) for user in users}
    assert len(tags) <= buckets
    for user in users[:5]:
        store.add("r", user_id=user)
    assert {tag for tag in folding.touched(store.rows) if tag.startswith("user:")} <= tags


@given(st.sampled_from(list(Family)), st.floats(0, 1e6), st.floats(0, 10), st.floats(0, 1))
def test_nothing_is_served_past_its_bound(family, age_s, cost_s, draw):
    served = policy.freshness(family, age_s=age_s, cost_s=cost_s, draw=draw) is not Freshness.EXPIRED
    assert served == (age_s < RULES[family].shared_ttl_s)


@given(st.sampled_from(TAGGED), st.floats(0, 1e6), st.floats(0, 10), st.floats(0, 1))
def test_pages_are_never_served_while_refreshing(family, age_s, cost_s, draw):
    assert policy.freshness(family, age_s=age_s, cost_s=cost_s, draw=draw) is not Freshness.REFRESH


@pytest.mark.parametrize("family", TIMED)
def test_the_last_part_of_a_timed_answers_life_is_served_while_refreshing(family):
    rule = RULES[family]
    due_s = rule.shared_ttl_s - rule.stale_s
    assert policy.freshness(family, age_s=due_s - 0.01, cost_s=0, draw=0.5) is Freshness.FRESH
    assert policy.freshness(family, age_s=due_s, cost_s=0, draw=0.5) is Freshness.REFRESH
    assert policy.freshness(family, age_s=rule.shared_ttl_s - 0.01, cost_s=0, draw=0.5) is Freshness.REFRESH


def test_early_refresh_is_likelier_for_dear_answers_and_near_the_end():
    draws = [random.Random(n).random() for n in range(2000)]

    def share(age_s: float, cost_s: float) -> float:
        verdicts = [policy.freshness(Family.ANALYTICS, age_s=age_s, cost_s=cost_s, draw=d) for d in draws]
        return sum(verdict is Freshness.REFRESH for verdict in verdicts) / len(draws)

    assert share(1, 0.01) == 0
    assert share(19.5, 0.1) < share(19.5, 1) < share(19.9, 1) < 1
    assert share(19.5, 1) == pytest.approx(0.606, abs=0.05)  # e ** -(0.5 / 1)


def test_a_draw_of_nought_is_no_error():
    assert policy.freshness(Family.ANALYTICS, age_s=0, cost_s=0.01, draw=0.0) is Freshness.FRESH


@pytest.mark.parametrize("wrong", [{"user_buckets": 0}, {"eagerness": 0}])
def test_a_policy_refuses_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        CachePolicy(**wrong)


@pytest.mark.parametrize(("count", "told"), [(0, 0), (1, 1), (128, 128), (129, 0)])
def test_a_commit_tells_all_its_messages_or_only_whom_it_touched(count, told):
    store = ListStore()
    stored = [store.add("lobby") for _ in range(count)]
    invalidation = policy.commit_of(list(reversed(stored)))
    assert list(invalidation.tags) == policy.touched(stored)
    assert list(invalidation.stored) == stored[:told]
