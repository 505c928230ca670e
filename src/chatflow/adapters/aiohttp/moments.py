"""Moments in query parameters: ISO-8601 or ``YYYY-MM-DD HH:MM:SS``, UTC unless they say otherwise."""

import re
from datetime import datetime

from chatflow.domain.messages.timestamps import micros_of

MILLISECOND_US = 1000
_NOT_A_MOMENT = "must be a time like 2026-11-24T01:31:00Z or 2026-11-24 01:31:00 (UTC)"
PATTERN = (
    r"^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?( ?(Z|z|[+ -]([01][0-9]|2[0-3]):?[0-5][0-9]))?)?$"
)
"""Of every moment; a day must also be in the calendar, and the year still be one of these in UTC."""
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?) ?(Z|z|[+ -][0-9]{2}:?[0-9]{2})?)?",
    re.ASCII,
)


def first_moment(text: str) -> int:
    """Microseconds of a moment. A blank before the offset is a ``+`` that the URL did not escape."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(_NOT_A_MOMENT)
    day, time, offset = match.groups()
    zone = (offset or "+00:00").upper().replace(" ", "+")
    try:
        return micros_of(datetime.fromisoformat(f"{day}T{time or '00:00'}{zone}"))
    except (ValueError, OverflowError) as exc:
        raise ValueError(_NOT_A_MOMENT) from exc


def last_moment(text: str) -> int:
    """The last microsecond of a millisecond: answers show no more of a time, and what they show must find it again."""
    micros = first_moment(text)
    return micros if micros % MILLISECOND_US else micros + MILLISECOND_US - 1
