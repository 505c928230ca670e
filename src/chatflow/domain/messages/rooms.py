"""Room names and the partition that each room belongs to, the same in every role and forever."""

import re
import zlib
from functools import lru_cache

from chatflow.domain.messages.errors import InvalidRoom

ROOM_MAX_CHARS = 64
_ROOM = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_NUMBERED = re.compile(r"room([0-9]+)", re.ASCII)


@lru_cache(maxsize=4096)
def normalise_room(raw: str, max_chars: int = ROOM_MAX_CHARS) -> str:
    """The room id that a path, frame or parameter means: ``room5`` is ``5``.

    Raises:
        InvalidRoom: empty, too long, or with a character outside ``A-Z a-z 0-9 . _ -``.
    """
    if not is_room(raw, max_chars):
        raise InvalidRoom(max_chars)
    numbered = _NUMBERED.fullmatch(raw)
    return numbered[1] if numbered else raw


def is_room(text: str, max_chars: int = ROOM_MAX_CHARS) -> bool:
    """Whether it is 1 to ``max_chars`` characters of ``A-Z a-z 0-9 . _ -``."""
    return 1 <= len(text) <= max_chars and _ROOM.fullmatch(text) is not None


is_known_room = lru_cache(maxsize=4096)(is_room)
"""`is_room`, remembered; for names that passed it once, since what a client sends could fill the memory."""


@lru_cache(maxsize=4096)
def partition_of(room_id: str, partitions: int) -> int:
    """0 .. partitions-1, by CRC-32 (ISO 3309) of the room id."""
    return zlib.crc32(room_id.encode()) % partitions
