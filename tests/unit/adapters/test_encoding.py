"""The parts of a room page make the JSON that its documented type says."""

import msgspec
import pytest

from chatflow.adapters.aiohttp.encoding import body_of, digest_of, encode, encode_row
from chatflow.adapters.aiohttp.schemas import RoomMessage, RoomMessages
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.reading.answers import HEAD_BYTES, Answer, Answered, EncodedRows, RoomPage, Tier, Total
from tests.reading_fakes import ListStore

TEXTS = ["hi", 'a "quoted" \\ back', "\u2028 \U0001f600 \x07", ""]


def answered(answer: Answer, source: Tier = Tier.MISS) -> Answered:
    return Answered(bytes(HEAD_BYTES) + encode(answer), source, 0.001)


@pytest.mark.parametrize("count", [0, 1, len(TEXTS)])
@pytest.mark.parametrize("more", [None, "AXIAAAAAAAAAAyUrrGk"])
def test_a_room_page_of_rows_is_its_type_encoded(count: int, more: str | None) -> None:
    store = ListStore()
    stored = [store.add("a.b-c_1", user_id=number, text=text) for number, text in enumerate(TEXTS[:count], 1)]
    messages = [
        RoomMessage(
            each.message.message_id,
            each.seq,
            each.message.user_id,
            each.message.username,
            each.message.text,
            each.message.message_type,
            format_timestamp(each.message.sent_at_us),
            format_timestamp(each.message.accepted_at_us),
        )
        for each in stored
    ]
    rows = answered(EncodedRows("a.b-c_1", 7, [encode_row(each) for each in stored], more))
    whole = answered(RoomPage("a.b-c_1", 7, stored, more))
    documented = RoomMessages("a.b-c_1", 7, count, messages, msgspec.UNSET if more is None else more)
    assert body_of(rows) == body_of(whole) == msgspec.json.encode(documented)
    assert digest_of(rows) == digest_of(whole)


def test_equal_bodies_have_equal_tags_whatever_tier_they_come_from() -> None:
    assert digest_of(answered(Total(1), Tier.MISS)) == digest_of(answered(Total(1), Tier.LOCAL))
    assert digest_of(answered(Total(1))) != digest_of(answered(Total(2)))
