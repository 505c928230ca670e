"""``/chat/{room}`` on the wire: one reply per frame, in order, whatever the frame is."""

import asyncio
import random
import re

import msgspec
import pytest

from tests.harness.ws_client import encode
from tests.integration.gateway_harness import BINARY, TEXT, chat, frame, new_id, open_gateway

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
USER_RANGE = "userID must be between 1 and 9007199254740991"
NAME_CHARS = "username must be alphanumeric (only letters and numbers)"
NAME_SIZE = "username must be between 3 and 20 characters"
TEXT_SIZE = "message must be 1-500 characters"
TYPES = "messageType must be TEXT, JOIN, or LEAVE"
TIME = "timestamp must be a valid ISO 8601 format"


@pytest.fixture(params=[False, True], ids=["all parts", "public parts"])
async def gateway(request):
    async with open_gateway(server={"driver_fallback": request.param}) as opened:
        yield opened


@pytest.fixture
async def peer(gateway):
    async with gateway.peer("/chat/lobby") as opened:
        yield opened


async def answer(peer, frame):
    await peer.send_text(frame if isinstance(frame, str) else encode(frame))
    return await peer.receive()


async def test_a_success_reply_has_exactly_the_fields_of_the_contract(peer):
    reply = await answer(peer, chat())
    assert list(reply) == ["originalMessage", "serverTimestamp", "status", "messageId"]
    assert reply["originalMessage"] == chat()
    assert ISO.fullmatch(reply["serverTimestamp"])
    assert UUID7.fullmatch(reply["messageId"])


async def test_replies_are_compact_so_that_a_substring_finds_the_status(peer):
    await peer.send_text('{ "userId" : 5, "username": "user123", "message":"a", "timestamp" : "2026-11-24T01:31:00Z" , '
                         '"messageType" : "TEXT" }')  # fmt: skip
    good = await peer.receive_text()
    await peer.send_text("{ }")
    bad = await peer.receive_text()
    assert '"status":"success"' in good
    assert '"status":"error"' in bad
    for text in (good, bad):
        assert encode(msgspec.json.decode(text)) == text


async def test_an_error_reply_has_exactly_the_fields_of_the_contract(peer):
    reply = await answer(peer, chat(username="x", more=[1, {"a": None}]))
    assert list(reply) == ["originalMessage", "serverTimestamp", "status", "errorMessage"]
    assert reply["originalMessage"] == chat(username="x", more=[1, {"a": None}])
    assert ISO.fullmatch(reply["serverTimestamp"])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"userId": None}, "userID is required"),
        ({"userId": ""}, "userID is required"),
        ({"userId": "abc"}, "userID must be a valid number"),
        ({"userId": "1.5"}, "userID must be a valid number"),
        ({"userId": 1.5}, "userID must be a valid number"),
        ({"userId": True}, "userID must be a valid number"),
        ({"userId": [1]}, "userID must be a valid number"),
        ({"userId": "٣"}, "userID must be a valid number"),
        ({"userId": 0}, USER_RANGE),
        ({"userId": "-1"}, USER_RANGE),
        ({"userId": 2**53}, USER_RANGE),
        ({"userId": 10**60}, USER_RANGE),
        ({"username": None}, "username is required"),
        ({"username": "a-b"}, NAME_CHARS),
        ({"username": "äöü"}, NAME_CHARS),
        ({"username": "abc "}, NAME_CHARS),
        ({"username": 123}, NAME_CHARS),
        ({"username": "ab"}, NAME_SIZE),
        ({"username": "a" * 21}, NAME_SIZE),
        ({"message": None}, "message is required"),
        ({"message": ""}, "message is required"),
        ({"message": "x" * 501}, TEXT_SIZE),
        ({"message": "😀" * 501}, TEXT_SIZE),
        ({"message": 5}, TEXT_SIZE),
        ({"messageType": None}, "messageType is required"),
        ({"messageType": "text"}, TYPES),
        ({"messageType": ["TEXT"]}, TYPES),
        ({"timestamp": None}, "timestamp is required"),
        ({"timestamp": "yesterday"}, TIME),
        ({"timestamp": "2026-11-24"}, TIME),
        ({"timestamp": "2026-13-01T00:00:00Z"}, TIME),
        ({"timestamp": 1_790_000_000}, TIME),
    ],
)
async def test_each_broken_field_has_its_text(peer, fields, error):
    reply = await answer(peer, chat(**fields))
    assert (reply["status"], reply["errorMessage"]) == ("error", error)


async def test_the_first_broken_field_wins_in_the_order_of_the_contract(peer):
    broken = {"userId": "x", "username": "-", "message": "", "messageType": "x", "timestamp": "x"}
    expected = ["userID must be a valid number", NAME_CHARS, "message is required", TYPES, TIME]
    for error in expected:
        reply = await answer(peer, chat() | broken)
        assert reply["errorMessage"] == error
        broken.pop(next(iter(broken)))
    assert (await answer(peer, chat()))["status"] == "success"


@pytest.mark.parametrize(
    "text",
    ["", " ", "hello", "{", '{"a":}', "[]", "[{}]", "5", "null", '"text"', "true", "NaN", "[" * 16_384, '{"a":' * 3_000,
     '{"message":"\\ud800"}', '{"message":"\\udc00x"}', '{"a":1}{"a":2}', "\x00", "1" * 5_000, "{'a':1}", "1e999"],
)  # fmt: skip
async def test_what_is_no_json_object_is_called_malformed_and_the_socket_stays_open(peer, text):
    reply = await answer(peer, text)
    assert (reply["originalMessage"], reply["errorMessage"]) == (None, "malformed JSON")
    assert (await answer(peer, chat()))["status"] == "success"


async def test_a_binary_frame_is_malformed_and_the_socket_stays_open(gateway):
    raw = await gateway.raw("/chat/lobby")
    raw.write(frame(BINARY, encode(chat()).encode()))
    assert b"malformed JSON" in (await raw.read_frame())[1]
    raw.send(chat())
    assert b'"status":"success"' in (await raw.read_frame())[1]
    await raw.close()


@pytest.mark.parametrize(
    ("text", "count"),
    [("x" * 500, 500), ("😀" * 500, 500), ("\x00\x01", 2), ("\ufeff\u202e\u2028", 3), ('"\\/', 3), ("   ", 3)],
)
async def test_any_text_of_up_to_500_code_points_is_stored_as_it_came(gateway, peer, text, count):
    assert len(text) == count
    reply = await answer(peer, chat(message=text))
    assert reply["status"] == "success"
    assert reply["originalMessage"]["message"] == text
    assert gateway.texts("lobby") == [text]


async def test_unknown_fields_are_ignored_and_echoed(gateway, peer):
    odd = chat(roomId="elsewhere", extra={"deep": [1, 2.5, None, True]}, huge=10**40, tiny=1e-300)
    reply = await answer(peer, odd)
    assert reply["status"] == "success"
    assert reply["originalMessage"] == odd
    assert gateway.texts("lobby") == ["hi"]


async def test_of_a_key_that_comes_twice_the_last_one_counts(gateway, peer):
    text = encode(chat())[:-1] + ',"message":"second"}'
    reply = await answer(peer, text)
    assert reply["originalMessage"]["message"] == "second"
    assert gateway.texts("lobby") == ["second"]


@pytest.mark.parametrize("user_id", ["123", 123, "0123", "9007199254740991"])
async def test_a_user_id_may_be_a_string_or_an_integer(gateway, peer, user_id):
    assert (await answer(peer, chat(userId=user_id)))["status"] == "success"
    assert gateway.store.rooms["lobby"][0].message.user_id == int(user_id)


@pytest.mark.parametrize("kind", ["TEXT", "JOIN", "LEAVE"])
async def test_all_three_message_types_are_stored(gateway, peer, kind):
    assert (await answer(peer, chat(messageType=kind)))["status"] == "success"
    assert gateway.store.rooms["lobby"][0].message.message_type == kind


async def test_success_means_stored(gateway, peer):
    reply = await answer(peer, chat())
    assert gateway.store.ids("lobby") == [reply["messageId"]]


async def test_a_repeated_message_id_is_stored_once_and_answered_with_success_each_time(gateway, peer):
    mine = new_id()
    replies = [await answer(peer, chat(messageId=given)) for given in (mine, mine.upper(), mine)]
    assert {reply["status"] for reply in replies} == {"success"}
    assert {reply["messageId"] for reply in replies} == {mine}
    assert gateway.store.ids("lobby") == [mine]


@pytest.mark.parametrize("bad", ["", "x", 5, "01970000000070008000000000000001"])
async def test_a_message_id_that_is_no_uuid_is_refused(gateway, peer, bad):
    reply = await answer(peer, chat(messageId=bad))
    assert reply["errorMessage"] == "messageId must be a UUID"
    assert gateway.texts("lobby") == []


async def test_a_thousand_pipelined_frames_are_answered_in_their_order(gateway, peer):
    rng = random.Random(1)
    frames = []
    for n in range(1_000):
        good, kind = chat(message=f"m{n}", n=n), rng.randrange(4)
        frames.append(good if kind < 2 else good | {"username": "-"} if kind == 2 else n)
    await peer.send(*frames)
    for sent in frames:
        reply = await peer.receive()
        assert reply["originalMessage"] == (None if isinstance(sent, int) else sent)
        is_good = isinstance(sent, dict) and sent["username"] != "-"
        assert reply["status"] == ("success" if is_good else "error")
    good = [sent["message"] for sent in frames if isinstance(sent, dict) and sent["username"] != "-"]
    assert gateway.texts("lobby") == good


@pytest.mark.parametrize("path", ["/chat/room5", "/chat/5", "/chat/room%35", "/chat/%72oom5", "/chat/5?roomId=7"])
async def test_room5_and_5_are_one_room_however_the_path_writes_it(gateway, path):
    async with gateway.peer(path) as peer:
        await answer(peer, chat())
    assert gateway.texts("5") == ["hi"]


@pytest.mark.parametrize(
    "path",
    ["/chat/", "/chat/a%20b", "/chat/a/b", "/chat/%E4%F6", "/chat/%00", "/chat/" + "a" * 65, "/chat/caf%C3%A9",
     "/chat/%", "/chat/a%0Ab", "/chat//", "/chat/5/"],
)  # fmt: skip
async def test_a_bad_room_closes_the_socket_with_policy_and_the_reason(gateway, path):
    async with gateway.peer(path) as peer:
        code, reason = await peer.closed()
    assert code == 1008
    assert reason.startswith("Invalid roomId")


async def test_a_room_of_64_characters_of_every_allowed_kind_is_served(gateway):
    room = ("aZ9._-" * 11)[:64]
    await gateway.can_chat(room)
    assert gateway.texts(room) == ["hi"]


async def test_invalid_utf8_closes_with_1007(gateway):
    raw = await gateway.raw("/chat/lobby")
    raw.write(frame(TEXT, b'{"message":"\xff\xfe"}'))
    assert (await raw.read_close())[0] == 1007
    await raw.close()


async def test_a_frame_of_ten_megabytes_closes_with_1009_and_nobody_else_notices(gateway, peer):
    async with gateway.peer("/chat/lobby") as big:
        sending = asyncio.create_task(big.send_text("x" * 10_000_000))
        assert (await big.closed())[0] == 1009
        await asyncio.gather(sending, return_exceptions=True)
    assert (await answer(peer, chat()))["status"] == "success"


async def test_a_fragmented_frame_is_one_message(gateway):
    raw = await gateway.raw("/chat/lobby")
    payload = encode(chat(message="in pieces")).encode()
    pieces = [payload[i : i + 7] for i in range(0, len(payload), 7)]
    raw.write(frame(TEXT, pieces[0], fin=False))
    for piece in pieces[1:-1]:
        raw.write(frame(0, piece, fin=False) + frame(9, b"between"))
    raw.write(frame(0, pieces[-1]))
    while (got := await raw.read_frame())[0] != TEXT:
        pass
    assert b'"status":"success"' in got[1]
    assert gateway.texts("lobby") == ["in pieces"]
    await raw.close()


async def test_fragments_that_add_up_to_more_than_the_limit_close_with_1009(gateway):
    raw = await gateway.raw("/chat/lobby")
    raw.write(frame(TEXT, b"x" * 10_000, fin=False) + frame(0, b"x" * 10_000, fin=False))
    assert (await raw.read_close())[0] == 1009
    await raw.close()


async def test_broadcasts_never_arrive_on_chat(gateway, peer):
    async with gateway.peer("/chat/lobby") as other, gateway.peer("/feed/lobby?since=0") as feed:
        for n in range(20):
            await answer(other, chat(message=f"m{n}"))
        for n in range(20):
            assert (await feed.receive())["message"] == f"m{n}"
    await peer.silence()
