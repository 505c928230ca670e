"""Whatever bytes or values come: an answer or a close, never an error of ours, and later clients are served."""

import asyncio
import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.ws_client import encode
from tests.integration.gateway_harness import TEXT, chat, frame, new_id, open_gateway, send

HELLO = {"op": "hello", "userId": 7, "username": "ada"}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "lobby", "room5", "5", "TEXT", "stored", "2026-11-24T01:31:00Z", "0001-01-01T00:00:00+23:59"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
CHAT_FRAMES = st.one_of(
    VALUES,
    st.dictionaries(
        st.sampled_from(["userId", "username", "message", "timestamp", "messageType", "messageId"]), VALUES
    ).map(lambda odd: chat() | odd),
    st.dictionaries(st.sampled_from(["message", "timestamp"]), st.text()).map(lambda odd: chat() | odd),
)
SESSION_OBJECTS = st.one_of(
    VALUES.filter(lambda value: not isinstance(value, list)),
    st.builds(
        lambda op, odd: {"op": op, "room": "lobby", "text": "hi"} | odd,
        st.sampled_from(["hello", "join", "leave", "send", "send", "SEND"]),
        st.dictionaries(st.sampled_from(["room", "text", "id", "ref", "ack", "since", "userId", "token"]), VALUES),
    ),
)


@settings(max_examples=60)
@given(frames=st.lists(CHAT_FRAMES, max_size=20))
async def test_every_json_value_on_chat_gets_exactly_one_reply_in_its_place(frames):
    async with open_gateway() as gateway, gateway.peer("/chat/lobby") as peer:
        await peer.send(*frames, chat(last=True))
        for sent in frames:
            reply = await peer.receive()
            assert reply["status"] in {"success", "error"}
            assert reply["originalMessage"] == (msgspec.json.decode(encode(sent)) if isinstance(sent, dict) else None)
        assert (await peer.receive())["originalMessage"]["last"] is True
        await peer.silence()


@settings(max_examples=60)
@given(frames=st.lists(SESSION_OBJECTS | st.lists(SESSION_OBJECTS, max_size=5), max_size=20), hello=st.booleans())
async def test_every_json_value_on_ws_is_answered_and_the_connection_stays(frames, hello):
    async with open_gateway() as gateway, gateway.peer("/ws") as peer:
        if hello:
            await peer.hello()
        await peer.send(*frames, [HELLO, send("lobby", ref="the last one")])
        objects = [item for sent in frames for item in (sent if isinstance(sent, list) else [sent])]
        # A join that is followed by another join or leave of its room need not be answered.
        joins = sum(isinstance(item, dict) and item.get("op") == "join" for item in objects)
        answered, is_last_answered = 0, False
        while answered < len(objects) + 2 - joins or not is_last_answered:
            value = await peer.receive()
            assert value["op"] in {"welcome", "ack", "error", "joined", "left", "message"}
            answered += value["op"] != "message"
            is_last_answered = is_last_answered or value.get("ref") == "the last one"


@pytest.mark.parametrize("path", ["/chat/lobby", "/ws", "/feed/lobby?since=0"])
async def test_random_bytes_after_the_handshake_are_answered_or_end_the_connection(path):
    rng = random.Random(path)
    async with open_gateway() as gateway:

        async def attack(data):
            raw = await gateway.raw(path)
            raw.write(data)
            raw.writer.write_eof()
            await raw.read_all()
            await raw.close()

        await asyncio.gather(*(attack(rng.randbytes(rng.randrange(1, 2_000))) for _ in range(200)))
        await gateway.can_chat("lobby")


@pytest.mark.parametrize("path", ["/chat/lobby", "/ws"])
async def test_damaged_frames_are_answered_or_end_the_connection(path):
    rng = random.Random(path)
    good = [encode(value).encode() for value in (chat(messageId=new_id()), HELLO, send("lobby", id=new_id(), ref=1))]
    async with open_gateway() as gateway:

        async def attack():
            raw = await gateway.raw(path)
            for _ in range(10):
                payload = bytearray(rng.choice(good))
                for _ in range(rng.randrange(4)):
                    payload[rng.randrange(len(payload))] = rng.randrange(256)
                data = bytearray(frame(TEXT, bytes(payload)))
                if rng.random() < 0.2:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                raw.write(bytes(data))
            raw.writer.write_eof()
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    opcode, answer = await raw.read_frame()
                    assert opcode != TEXT or msgspec.json.decode(answer)
            await raw.close()

        await asyncio.gather(*(attack() for _ in range(100)))
        await gateway.can_chat("lobby")
