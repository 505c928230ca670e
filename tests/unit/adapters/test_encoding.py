"""The parts of a room page make the JSON that its documented type says."""

import msgspec
import pytest

from chatflow.adapters.aiohttp.answers import RoomMessage, RoomMessages
from chatflow.adapters.aiohttp.encoding import JsonAnswers
from chatflow.domain.messages.timestamps import format_timestamp
from tests.reading_fakes import ListStore

TEXTS = ["hi", 'a "quoted" \\ back', "\u2028 \U0001f600 \x07", ""]


@pytest.mark.parametrize("count", [0, 1, len(TEXTS)])
@pytest.mark.parametrize("more", [None, "AXIAAAAAAAAAAyUrrGk"])
def test_a_room_page_of_rows_is_its_type_encoded(count: int, more: str | None) -> None:
    store, encoder = ListStore(), JsonAnswers()
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
    page = encoder.room_page("a.b-c_1", 7, [encoder.row(each) for each in stored], more)
    documented = RoomMessages("a.b-c_1", 7, count, messages, msgspec.UNSET if more is None else more)
    assert page == msgspec.json.encode(documented)
