import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.permissions import (
    grant_of,
    matches,
    may_moderate,
    may_read,
    may_read_all,
    may_read_metrics,
    may_read_user,
    may_write,
    spellings,
)
from chatflow.ports.identity import OPEN, Grant, Principal

rooms = st.from_regex(r"(room)?[A-Za-z0-9._-]{1,20}", fullmatch=True)
patterns = st.from_regex(r"(room)?[a5*._-]{1,12}", fullmatch=True)


def principal(*grants: Grant, **more: bool) -> Principal:
    return Principal(7, "ada", grants, **more)


@given(rooms, rooms)
def test_a_grant_without_a_star_covers_every_spelling_of_its_room_and_no_other_room(granted: str, asked: str) -> None:
    who = principal(grant_of(granted, "rw"))
    assert may_read(who, normalise_room(granted))
    assert may_write(who, normalise_room(asked)) is (normalise_room(granted) == normalise_room(asked))


@given(patterns, st.from_regex(r"(room)?[a5._-]{1,12}", fullmatch=True))
def test_a_pattern_covers_what_the_same_regular_expression_does(pattern: str, room: str) -> None:
    regex = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
    assert matches(pattern, room) is (regex.fullmatch(room) is not None)


@given(rooms)
def test_all_spellings_of_a_room_are_that_room(room: str) -> None:
    stored = normalise_room(room)
    assert room in set(spellings(stored))
    assert {normalise_room(each) for each in spellings(stored)} == {stored}


@pytest.mark.parametrize(
    ("pattern", "room_id", "covered"),
    [
        ("team-*", "team-a", True),
        ("team-*", "team-", True),
        ("team-*", "team", False),
        ("team-*", "my-team-a", False),
        ("*", "5", True),
        ("room5", "5", True),
        ("room*", "5", False),
        ("room*", "room-a", True),
        ("5*", "51", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("lobby", "Lobby", False),
    ],
)
def test_a_pattern_covers_stored_names(pattern: str, room_id: str, covered: bool) -> None:
    assert may_read(principal(grant_of(pattern, "r")), room_id) is covered


def test_no_pattern_sends_the_matcher_back_again_and_again() -> None:
    assert not matches("*a" * 32, "a" * 31 + "b" * 33)  # a regular expression would not come back from this


def test_reading_and_writing_are_granted_apart() -> None:
    reader, writer = principal(grant_of("lobby", "r")), principal(grant_of("lobby", "w"))
    assert (may_read(reader, "lobby"), may_write(reader, "lobby")) == (True, False)
    assert (may_read(writer, "lobby"), may_write(writer, "lobby")) == (False, True)


@pytest.mark.parametrize(
    ("room", "may"),
    [("", "r"), ("a b", "r"), ("é", "r"), ("a" * 65, "r"), (None, "r"), (5, "r"), ("a", "x"), ("a", ""), ("a", None)],
)
def test_what_is_no_grant_is_refused(room: object, may: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        grant_of(room, may)


def test_members_admins_and_the_open_differ() -> None:
    member, admin, watcher = principal(), principal(is_admin=True), principal(may_metrics=True)
    asked = [
        lambda who: may_read(who, "5"),
        lambda who: may_write(who, "5"),
        lambda who: may_read_user(who, 8),
        may_read_all,
        may_read_metrics,
        may_moderate,
    ]
    assert [rule(member) for rule in asked] == [False] * 6
    assert [rule(watcher) for rule in asked] == [False, False, False, False, True, False]
    assert [rule(admin) for rule in asked] == [True] * 6
    assert [rule(OPEN) for rule in asked] == [True, True, True, True, True, False]
    assert may_read_user(member, 7)
