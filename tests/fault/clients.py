"""Clients that behave as real ones do under faults: they keep every ack, reconnect, and repeat what was not acked."""

import asyncio
import json
import random
from collections import deque
from typing import IO, Any

import attrs
import uuid_utils
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

Gone = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)


@attrs.define(eq=False)
class LedgerSender:
    """Sends numbered messages into its rooms with at most ``window`` unacked, and writes each ack to a ledger.

    After a reconnect all unacked messages are repeated in their order, with their ids, before any new one. After a
    retryable error it does the same on the same connection.
    """

    user_id: int
    rooms: list[str]
    url: str
    ledger: IO[str]
    window: int = 16
    limit: int | None = None
    numbers: dict[str, int] = attrs.field(factory=dict, init=False)
    unacked: dict[str, tuple[str, str]] = attrs.field(factory=dict, init=False)
    acked: int = attrs.field(default=0, init=False)
    connects: int = attrs.field(default=0, init=False)
    refused: int = attrs.field(default=0, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _random: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.user_id)

    def stop(self) -> None:
        """Send nothing new; `run` returns when everything is acked."""
        self._stopping = True

    async def run(self) -> None:
        while not self._is_done():
            try:
                async with connect(self.url, compression=None, open_timeout=5, close_timeout=1) as ws:
                    self.connects += 1
                    await self._say_hello(ws)
                    await self._converse(ws)
            except Gone:
                await asyncio.sleep(self._random.uniform(0.02, 0.1))

    def _is_done(self) -> bool:
        return self._has_no_more() and not self.unacked

    def _has_no_more(self) -> bool:
        return self._stopping or (self.limit is not None and self.acked + len(self.unacked) >= self.limit)

    async def _say_hello(self, ws: ClientConnection) -> None:
        hello = {"op": "hello", "userId": self.user_id, "username": f"user{self.user_id}"}
        await ws.send(json.dumps(hello))
        answer = json.loads(await asyncio.wait_for(ws.recv(), 5))
        assert answer["op"] == "welcome", answer

    async def _converse(self, ws: ClientConnection) -> None:
        await self._repeat(ws)
        while not self._is_done():
            while len(self.unacked) < self.window and not self._has_no_more():
                await self._send_new(ws)
            if await self._hear(ws):
                await self._repeat(ws)

    async def _send_new(self, ws: ClientConnection) -> None:
        room = self._random.choice(self.rooms)
        self.numbers[room] = number = self.numbers.get(room, 0) + 1
        message_id = str(uuid_utils.uuid7())
        self.unacked[message_id] = (room, f"{self.user_id}:{number}")
        await ws.send(self._frame(message_id))

    async def _repeat(self, ws: ClientConnection) -> None:
        for message_id in list(self.unacked):
            await ws.send(self._frame(message_id))

    def _frame(self, message_id: str) -> str:
        room, text = self.unacked[message_id]
        return json.dumps({"op": "send", "ref": message_id, "room": room, "text": text, "id": message_id})

    async def _hear(self, ws: ClientConnection) -> bool:
        """Take in one frame; whether everything unacked must be repeated."""
        answers = json.loads(await ws.recv())
        must_repeat = False
        for answer in answers if isinstance(answers, list) else [answers]:
            if answer["op"] == "ack":
                self._on_ack(answer)
            elif answer["op"] == "error":
                assert answer["retryable"], answer
                self.refused += 1
                must_repeat = True
        if must_repeat:
            await asyncio.sleep(0.05)
        return must_repeat

    def _on_ack(self, answer: dict[str, Any]) -> None:
        if known := self.unacked.pop(answer["id"], None):
            self.acked += 1
            self.ledger.write(json.dumps({"messageId": answer["id"], "roomId": known[0]}) + "\n")


@attrs.define(eq=False)
class Listener:
    """Joins one room and notes every ``seq`` it is given, across reconnects."""

    room: str
    url: str
    seen: deque[int] = attrs.field(factory=deque, init=False)
    _stopping: bool = attrs.field(default=False, init=False)

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        while not self._stopping:
            try:
                async with connect(self.url, compression=None, open_timeout=5, close_timeout=1, max_size=2**24) as ws:
                    await ws.send(json.dumps({"op": "hello", "userId": 999, "username": "listener"}))
                    since = self.seen[-1] if self.seen else 0
                    await ws.send(json.dumps({"op": "join", "ref": 1, "room": self.room, "since": since}))
                    while True:
                        self._take(json.loads(await ws.recv()))
            except Gone:
                await asyncio.sleep(0.05)

    def _take(self, frame: Any) -> None:
        for item in frame if isinstance(frame, list) else [frame]:
            if item["op"] == "message" and item["room"] == self.room:
                self.seen.append(item["seq"])
            elif item["op"] == "joined":
                assert item["recovered"], "missed more than the server replays: raise CHATFLOW_REPLAY_LIMIT"
