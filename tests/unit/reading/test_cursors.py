"""Cursors are opaque, tied to their listing, and anything else is refused."""

import base64
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.reading.cursors import (
    InvalidCursor,
    decode_activity_cursor,
    decode_room_cursor,
    decode_user_cursor,
    encode_activity_cursor,
    encode_room_cursor,
    encode_user_cursor,
)
from chatflow.ports.store import ActivityCursor, UserCursor

rooms = st.from_regex(re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII), fullmatch=True)
seqs = st.integers(1, 2**63 - 1)
users = st.integers(1, 2**53 - 1)
places = st.builds(UserCursor, st.integers(0, 2**62), rooms, seqs)


@given(rooms, seqs)
def test_a_room_cursor_comes_back_as_it_was(room, seq):
    text = encode_room_cursor(room, seq)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert decode_room_cursor(text, room) == seq


@given(users, places)
def test_a_user_cursor_comes_back_as_it_was(user, place):
    assert decode_user_cursor(encode_user_cursor(user, place), user) == place


@given(users, st.integers(0, 2**62), rooms)
def test_a_cursor_among_rooms_comes_back_as_it_was(user, at_us, room):
    place = ActivityCursor(at_us, room)
    assert decode_activity_cursor(encode_activity_cursor(user, place), user) == place


def test_a_cursor_works_only_where_it_came_from():
    room, user = encode_room_cursor("5", 10), encode_user_cursor(5, UserCursor(1, "5", 10))
    for misuse in (
        lambda: decode_room_cursor(room, "6"),
        lambda: decode_room_cursor(user, "5"),
        lambda: decode_user_cursor(user, 6),
        lambda: decode_user_cursor(room, 5),
        lambda: decode_activity_cursor(user, 5),
        lambda: decode_activity_cursor(encode_activity_cursor(5, ActivityCursor(1, "5")), 6),
    ):
        with pytest.raises(InvalidCursor, match="another listing"):
            misuse()


@given(st.text(max_size=400))
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidCursor):
        decode_room_cursor(text, "5")
    with pytest.raises(InvalidCursor):
        decode_user_cursor(text, 5)


@pytest.mark.parametrize("room", ["\u00e9", "\udcff"])
def test_a_forged_room_that_no_room_can_be_called_is_refused(room):
    forged = encode_user_cursor(5, UserCursor(1, "##", 10))
    raw = base64.urlsafe_b64decode(forged + "=" * (-len(forged) % 4))[:-4]
    payload = raw.replace(b"##", room.encode(errors="surrogateescape"))
    sealed = payload + zlib.crc32(b"5", zlib.crc32(payload)).to_bytes(4, "big")
    with pytest.raises(InvalidCursor, match="damaged"):
        decode_user_cursor(base64.urlsafe_b64encode(sealed).decode().rstrip("="), 5)


@given(seqs, st.data())
def test_a_changed_byte_is_noticed(seq, data):
    raw = bytearray(base64.urlsafe_b64decode(encode_room_cursor("5", seq) + "=="))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidCursor):
        decode_room_cursor(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), "5")


def test_a_cursor_of_a_later_version_is_refused():
    raw = bytearray(base64.urlsafe_b64decode(encode_room_cursor("5", 10) + "=="))
    raw[0] = 2
    with pytest.raises(InvalidCursor, match="not a cursor"):
        decode_room_cursor(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), "5")
