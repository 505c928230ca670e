"""Whatever comes over the wire, in open mode and with tokens: never an error of ours, never a close code that the peer
did not earn, never a disturbed neighbour.

Hypothesis plays a few peers at once, each with frames of every kind: operations with odd fields, JSON that is none,
fragments, control frames, and bytes that are no WebSocket at all. A neighbour chats meanwhile.
"""

import asyncio
import json
import struct
import time
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from chatflow.adapters.jwt.authenticator import JwtAuthenticator
from chatflow.adapters.jwt.keys import OneKey, secret_key
from chatflow.domain.identity.claims import ClaimRules
from chatflow.domain.identity.recent_tokens import RecentTokens
from tests.harness.tokens import SECRET, bad_tokens, token_of
from tests.integration.gateway_harness import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Gateway,
    RawPeer,
    chat,
    frame,
    new_id,
    now_us,
    open_gateway,
    send,
    upgrade,
)

TOKENS: dict[str, str | None] = {
    "none at all": None,
    "good": token_of(7, "ada", {"room": "fuzz*", "may": "rw"}, {"room": "5", "may": "rw"}),
    "admin": token_of(1, "root", admin=True, grants=[]),
    "read only": token_of(7, "ada", {"room": "*", "may": "r"}),
    "expired": bad_tokens()["expired"][0],
    "unsigned": bad_tokens()["none"][0],
    "nonsense": "nonsense",
}
WELCOME = {"good", "admin", "read only"}
OPS = {"welcome", "refreshed", "joined", "left", "ack", "error", "message"}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "fuzz", "room5", "5", "TEXT", "stored", "durable", new_id(), "2026-11-24T01:31:00Z"]),
    st.sampled_from([token for token in TOKENS.values() if token is not None]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
operations = st.builds(
    lambda op, known, odd: {"op": op} | known | odd,
    st.sampled_from(["hello", "refresh", "join", "leave", "send", "send", "send", "shout"]),
    st.sampled_from([{}, {"room": "fuzz", "text": "hi"}, {"room": "room5", "text": "hi", "since": 0}]),
    st.dictionaries(
        st.sampled_from(["room", "text", "id", "ref", "ack", "since", "userId", "username", "token"]),
        values,
        max_size=3,
    ),
)
chats = st.builds(
    lambda odd: chat(userId=7, username="ada") | odd,
    st.dictionaries(st.sampled_from(["userId", "username", "message", "messageType", "messageId"]), values, max_size=2),
)
texts = st.one_of(
    operations.map(json.dumps),
    st.lists(operations, max_size=4).map(json.dumps),
    chats.map(json.dumps),
    values.map(json.dumps),
    st.text(max_size=40),
    st.sampled_from(["[" * 2000, "{}", "[]", "[[]]", '{"op":"hello"', "\x00", "9" * 400]),
).map(lambda text: text.encode(errors="replace"))


@attrs.frozen
class Piece:
    """Bytes on the wire, and the close code that they earn, if any."""

    data: bytes
    code: int | None = None


def fragments(text: bytes, at: int) -> Piece:
    at = min(at, len(text))
    return Piece(frame(TEXT, text[:at], fin=False) + frame(PING, b"x") + frame(0, text[at:]))


pieces = st.one_of(
    texts.map(lambda text: Piece(frame(TEXT, text))),
    texts.map(lambda text: Piece(frame(TEXT, text))),
    st.builds(fragments, texts, st.integers(0, 40)),
    st.binary(max_size=30).map(lambda data: Piece(frame(BINARY, data))),
    st.binary(max_size=125).map(lambda data: Piece(frame(PING, data))),
    st.binary(max_size=125).map(lambda data: Piece(frame(PONG, data))),
    st.sampled_from(
        [
            Piece(frame(TEXT, b"\xff\xfe"), 1007),
            Piece(frame(TEXT, b"x" * 20_000), 1009),
            Piece(frame(TEXT, b"", size=2**62), 1009),
            Piece(frame(3, b"x"), 1002),
            Piece(frame(0, b"continues nothing"), 1002),
            Piece(frame(PING, b"x" * 126), 1002),
            Piece(frame(PING, b"", fin=False), 1002),
            Piece(bytes([0xC1, 0x80, 0, 0, 0, 0]), 1002),
            Piece(bytes([0x81, 0x01, 0x78]), 1002),
        ]
    ),
)


@attrs.frozen
class Intruder:
    """One connection, and all that it sends."""

    path: str
    token: str
    pieces: tuple[Piece, ...]
    says_hello: bool

    def codes(self, is_open: bool) -> set[int]:
        """What may end it: something that it earned, or its own goodbye."""
        earned = {piece.code for piece in self.pieces if piece.code is not None} or {1000}
        if is_open or self.token in WELCOME:
            is_deaf = self.path.startswith("/feed/den") and not is_open and self.token == "good"
            return {*earned, 4403} if is_deaf else earned
        if self.path == "/ws" and self.token == "none at all":
            return earned
        return {*earned, 4401}


def intruders(least: int) -> st.SearchStrategy[Intruder]:
    return st.builds(
        Intruder,
        st.sampled_from(["/ws", "/ws", "/chat/fuzz", "/chat/den", "/feed/fuzz?since=0", "/feed/den"]),
        st.sampled_from(list(TOKENS)),
        st.lists(pieces, min_size=least, max_size=20).map(tuple),
        st.booleans(),
    )


async def intrude(gateway: Gateway, intruder: Intruder, is_open: bool) -> None:
    raw = await gateway.raw(None)
    token = TOKENS[intruder.token]
    head = upgrade(intruder.path)
    if token is not None:
        head = head.removesuffix(b"\r\n") + f"Authorization: Bearer {token}\r\n\r\n".encode()
    raw.write(head)
    assert b" 101 " in await raw.head()
    if intruder.says_hello:
        raw.send({"op": "hello", **({"userId": 7, "username": "ada"} if is_open else {})})
    for piece in intruder.pieces:
        raw.write(piece.data)
    if all(piece.code is None for piece in intruder.pieces):
        raw.write(frame(CLOSE, struct.pack("!H", 1000)))
    assert await end_of(raw, token) in intruder.codes(is_open), intruder
    await raw.close()


async def end_of(raw: RawPeer, token: str | None) -> int:
    """Read to the close frame; all before it is text that the protocols know."""
    while True:
        opcode, payload = await raw.read_frame()
        if opcode == CLOSE:
            return int(struct.unpack("!H", payload[:2])[0])
        if opcode == TEXT:
            value = json.loads(payload)
            for each in value if isinstance(value, list) else [value]:
                assert each.get("op") in OPS or "originalMessage" in each or "messageId" in each
        else:
            assert opcode in {PING, PONG}


async def play(crowd: list[Intruder], *, is_open: bool) -> None:
    identity: dict[str, Any] = {}
    if not is_open:
        reader = JwtAuthenticator(OneKey(secret_key(SECRET)), "chatflow", ClaimRules())
        identity["authenticator"] = RecentTokens(reader, time.monotonic, now_us)
    async with open_gateway(**identity) as gateway, gateway.peer("/ws") as neighbour:
        hello = {"userId": 99, "username": "neighbour"} if is_open else {"token": token_of(99, "neighbour")}
        await neighbour.send({"op": "hello", **hello}, {"op": "join", "room": "quiet", "since": 0})
        await neighbour.collect("joined", 1)
        attacks = asyncio.gather(*(intrude(gateway, intruder, is_open) for intruder in crowd))
        for n in range(5):
            await neighbour.send(send("quiet", str(n), ref=n))
            heard = {each["op"]: each for each in (await neighbour.receive(), await neighbour.receive())}
            assert heard["ack"]["ref"] == n
            assert (heard["message"]["seq"], heard["message"]["text"]) == (n + 1, str(n))
        await attacks
        await neighbour.silence()
        assert gateway.texts("quiet") == [str(n) for n in range(5)]


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking, which would play thousands of crowds; what fails names its one intruder."""

SHORT = settings(max_examples=25, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
LONG = settings(SHORT, max_examples=600)
"""100,000 frames in both modes together, or more: 600 crowds of at least 6, with 14 each."""


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "jwt"])
@SHORT
@given(crowd=st.lists(intruders(0), min_size=1, max_size=5))
async def test_whatever_comes_nobody_is_disturbed(is_open: bool, crowd: list[Intruder]) -> None:
    await play(crowd, is_open=is_open)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "jwt"])
@LONG
@given(crowd=st.lists(intruders(14), min_size=6, max_size=8))
async def test_whatever_comes_for_a_long_time_nobody_is_disturbed(is_open: bool, crowd: list[Intruder]) -> None:
    await play(crowd, is_open=is_open)
