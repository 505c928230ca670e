import pytest

from chatflow.domain.messages.errors import Conflict
from chatflow.domain.session.recent_ids import RecentIds
from chatflow.ports.messages import Message
from tests.unit.fakes import message


def is_conflict(ids: RecentIds, sent: Message) -> bool:
    try:
        ids.check(sent)
    except Conflict:
        return True
    return False


def test_an_id_may_come_again_with_the_same_text_and_room() -> None:
    ids = RecentIds()
    assert not any(is_conflict(ids, message(1)) for _ in range(3))
    assert len(ids) == 1


@pytest.mark.parametrize("other", [message(1, "den"), message(1, text="ho")])
def test_an_id_with_another_text_or_room_is_a_conflict_whose_first_use_stands(other: Message) -> None:
    ids = RecentIds()
    ids.check(message(1))
    assert is_conflict(ids, other)
    assert not is_conflict(ids, message(1))


def test_everybody_has_ids_of_their_own() -> None:
    ids = RecentIds()
    ids.check(message(1, user_id=7))
    assert not is_conflict(ids, message(1, text="ho", user_id=8))


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 101])
def test_at_least_half_of_the_limit_is_remembered_and_never_more_than_the_limit(limit: int) -> None:
    ids = RecentIds(limit)
    for n in range(1, 501):
        ids.check(message(n))
        assert len(ids) <= limit + 1
    recent = max(1, limit // 2)
    assert all(is_conflict(ids, message(n, text="ho")) for n in range(501 - recent, 501))
    assert not is_conflict(ids, message(1, text="ho"))


def test_a_limit_of_nothing_remembers_nothing() -> None:
    ids = RecentIds(0)
    ids.check(message(1))
    ids.learn(message(1))
    assert not is_conflict(ids, message(1, text="ho"))
    assert len(ids) == 0


def test_what_is_stored_counts_even_if_another_text_seemed_to_be_first() -> None:
    ids = RecentIds()
    ids.check(message(1, text="ho"))
    ids.learn(message(1))
    assert not is_conflict(ids, message(1))
    assert is_conflict(ids, message(1, text="ho"))


def test_what_is_learnt_counts_though_the_older_generation_knows_better() -> None:
    ids = RecentIds(4)
    ids.check(message(1, text="ho"))
    ids.check(message(2))
    ids.check(message(3))
    ids.learn(message(1))
    assert not is_conflict(ids, message(1))
