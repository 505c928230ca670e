import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.messages.errors import InvalidInput, InvalidRoom
from chatflow.domain.messages.rooms import normalise_room, partition_of

LEGAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
rooms = st.text(LEGAL, min_size=1, max_size=64)


@pytest.mark.parametrize(
    ("raw", "room_id"),
    [
        ("room5", "5"),
        ("5", "5"),
        ("room007", "007"),
        ("room", "room"),
        ("room5a", "room5a"),
        ("Room5", "Room5"),
        ("roomroom5", "roomroom5"),
        ("room-5", "room-5"),
        ("room_1.a", "room_1.a"),
        ("a" * 64, "a" * 64),
        (".", "."),
    ],
)
def test_room_followed_by_digits_means_the_digits_and_everything_else_means_itself(raw: str, room_id: str) -> None:
    assert normalise_room(raw) == room_id


@pytest.mark.parametrize(
    "raw",
    ["", "a" * 65, "a b", "a/b", "é", "room5\n", "\n", "\u0665", "room\u0665", "a\x00", "a,b", "日本", "a" * 1_000_000],
)
def test_anything_else_is_not_a_room(raw: str) -> None:
    with pytest.raises(InvalidRoom) as raised:
        normalise_room(raw)
    assert str(raised.value) == "Invalid roomId: must be 1-64 characters of A-Z a-z 0-9 . _ -"
    assert not raised.value.retryable
    assert isinstance(raised.value, InvalidInput)


def test_the_length_limit_is_a_setting_and_the_refusal_names_it() -> None:
    assert normalise_room("abcd", 4) == "abcd"
    with pytest.raises(InvalidRoom, match="must be 1-3 characters"):
        normalise_room("abcd", 3)


@given(rooms)
def test_a_room_id_has_one_normal_form(raw: str) -> None:
    once = normalise_room(raw)
    assert normalise_room(once) == once
    assert set(once) <= set(LEGAL)


@pytest.mark.parametrize(
    ("room_id", "partition"),
    [("lobby", 7), ("1", 7), ("2", 5), ("3", 3), ("general", 2), ("room", 3), ("a.b_c-d", 7), ("x" * 64, 2)],
)
def test_partitions_are_the_same_for_ever(room_id: str, partition: int) -> None:
    # written down once: another value would put a room's messages into two queues at an upgrade
    assert partition_of(room_id, 8) == partition


def test_the_partition_is_crc_32_of_the_room_id() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of ISO 3309
    assert partition_of("123456789", 2**32) == 0xCBF43926


@given(rooms, st.integers(1, 64))
def test_every_room_has_one_partition_within_range(room_id: str, partitions: int) -> None:
    partition = partition_of(room_id, partitions)
    assert 0 <= partition < partitions
    assert partition_of(room_id, partitions) == partition


def test_another_process_with_another_hash_seed_finds_the_same_partition() -> None:
    program = "from chatflow.domain.messages.rooms import partition_of; print(partition_of('lobby', 1000))"
    environment = {"PYTHONHASHSEED": "4711", "PYTHONPATH": ":".join(sys.path)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(out.stdout) == partition_of("lobby", 1000)


def test_a_thousand_rooms_use_every_partition_about_equally() -> None:
    counts = [0] * 8
    for n in range(1_000):
        counts[partition_of(str(n), 8)] += 1
    assert min(counts) > 60
    assert max(counts) < 190
