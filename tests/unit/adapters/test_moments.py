"""The OpenAPI document's pattern of moments says what is parsed."""

import re
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from chatflow.adapters.aiohttp.moments import PATTERN, first_moment

STRICT = re.compile(PATTERN, re.ASCII)
parts = st.sampled_from(
    ["0", "1", "2", "9", "-", ":", ".", "T", " ", "Z", "+", "2026-11-2", "T01:3", "31", "+02:00", "x"]
)


def is_parsed(text: str) -> bool:
    try:
        first_moment(text)
    except ValueError:
        return False
    return True


@given(st.from_regex(STRICT, fullmatch=True))
def test_what_the_pattern_allows_is_parsed_if_the_day_exists(text: str) -> None:
    try:
        day = date.fromisoformat(text[:10])
    except ValueError:
        assert not is_parsed(text)
    else:
        assert is_parsed(text) or day.year in {1000, 9999}


@given(st.lists(parts, max_size=8).map("".join))
def test_what_is_parsed_is_allowed_by_the_pattern(text: str) -> None:
    if is_parsed(text):
        assert STRICT.fullmatch(text)
