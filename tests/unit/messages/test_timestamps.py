from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.messages.timestamps import format_timestamp, micros_of, parse_timestamp

FIRST_US = -30_610_224_000_000_000
LAST_US = 253_402_300_799_999_999
moments_us = st.integers(FIRST_US, LAST_US)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-24T01:31:00.123Z", 1_795_483_860_123_000),
        ("2026-11-24T01:31:00.123456Z", 1_795_483_860_123_456),
        ("2026-11-24T01:31:00.123456789Z", 1_795_483_860_123_456),
        ("2026-11-24T01:31:00", 1_795_483_860_000_000),
        ("2026-11-24T01:31", 1_795_483_860_000_000),
        ("2026-11-24T03:31:00+02:00", 1_795_483_860_000_000),
        ("2026-11-23T20:01:00-05:30", 1_795_483_860_000_000),
        ("20261124T013100Z", 1_795_483_860_000_000),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1000-01-01T00:00:00Z", FIRST_US),
        ("9999-12-31T23:59:59.999999Z", LAST_US),
    ],
)
def test_iso_8601_with_a_time_of_day_is_read_to_the_microsecond(text: str, micros: int) -> None:
    assert parse_timestamp(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "T",
        "yesterdayTnoon",
        "2026-11-24",
        "2026-11-24 01:31:00",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-24T25:00:00Z",
        "2026-11-24T01:31:00Zoo",
        "2026-11-24T01:31:00Z\n",
        "1795483860123",
        "0999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "1000-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-11-24T01:31:00\ud800",
        "T" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


@given(moments_us)
def test_milliseconds_survive_the_round_trip_and_the_rest_is_cut_off(micros: int) -> None:
    text = format_timestamp(micros)
    assert parse_timestamp(text) == micros - micros % 1_000
    assert len(text) == len("2026-11-24T01:31:00.123Z")


@given(st.datetimes(datetime(1001, 1, 1), datetime(9998, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_an_offset_changes_the_text_and_not_the_moment(naive: datetime, offset_min: int) -> None:
    there = naive.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=offset_min)))
    assert parse_timestamp(there.isoformat()) == micros_of(naive)


@given(moments_us, moments_us)
def test_texts_sort_as_their_moments_do(one: int, other: int) -> None:
    if one // 1_000 < other // 1_000:
        assert format_timestamp(one) < format_timestamp(other)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999_999, "1970-01-01T00:00:00.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_795_483_860_123_456, "2026-11-24T01:31:00.123Z"),
    ],
)
def test_the_wire_format_is_milliseconds_and_z(micros: int, text: str) -> None:
    assert format_timestamp(micros) == text
