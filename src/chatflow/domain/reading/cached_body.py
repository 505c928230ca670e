"""An encoded answer as caches keep it: what can be said of it without decoding it, then the body."""

import hashlib
import struct

_FRAME = struct.Struct(">Q8s")


def pack(body: bytes, head: int) -> bytes:
    """The bytes to keep.

    Args:
        body: the encoded answer.
        head: of a room page: the room's last ``seq`` was at least this when it was read; else 0.
    """
    return _FRAME.pack(head, hashlib.blake2b(body, digest_size=8).digest()) + body


def head_of(value: bytes) -> int:
    """See `pack`."""
    return int.from_bytes(value[:8], "big")


def digest_of(value: bytes) -> str:
    """Equal for equal bodies."""
    return value[8:16].hex()


def body_of(value: bytes) -> memoryview:
    """See `pack`."""
    return memoryview(value)[_FRAME.size :]
