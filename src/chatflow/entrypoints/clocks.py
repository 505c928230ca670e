"""Wall clock and message ids."""

import time

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562)."""
    return str(uuid_utils.uuid7())


def now_us() -> int:
    """Microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1000
