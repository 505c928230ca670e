"""ISO-8601 to and from microseconds since the Unix epoch, UTC."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_YEAR = 1000  # MySQL's DATETIME starts there
_DAY_US = 86_400_000_000


def parse_timestamp(text: str) -> int:
    """Microseconds of a date *and* time; without an offset it is UTC.

    Raises:
        ValueError: not ISO-8601, no time of day, or outside the years 1000-9999.
    """
    if "T" not in text and "t" not in text:
        raise ValueError("no time of day")
    return micros_of(datetime.fromisoformat(text))


def micros_of(moment: datetime) -> int:
    """Microseconds of a datetime; a naive one is UTC.

    Raises:
        ValueError: outside the years 1000-9999 once in UTC.
    """
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since: timedelta = moment - EPOCH
    micros = since.days * _DAY_US + since.seconds * 1_000_000 + since.microseconds
    if not _FIRST_US <= micros <= _LAST_US:
        raise ValueError("year out of range")
    return micros


_FIRST_US = (datetime(_EARLIEST_YEAR, 1, 1, tzinfo=UTC) - EPOCH).days * _DAY_US
_LAST_US = ((datetime(9999, 12, 31, tzinfo=UTC) - EPOCH).days + 1) * _DAY_US - 1


def format_timestamp(micros: int) -> str:
    """``2026-11-24T01:31:00.123Z``: milliseconds, cut off rather than rounded."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_format_second(seconds)}.{rest // 1000:03d}Z"


@lru_cache(maxsize=2048)
def _format_second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
