"""Clients that behave as real ones do under faults: they keep every ack, reconnect, and repeat what was not acked."""

import asyncio
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Iterator
from typing import IO, Any

import attrs
import uuid_utils
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

Gone = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)
OPEN_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 0.5
PING_INTERVAL_S = 1.0
FRAME_MESSAGES = 20
"""Together within the 16 KiB that a frame may have."""
TICK_S = 0.04
"""How often a paced sender looks whether something is due."""
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 0.4
"""Before refused messages are repeated, longer each time in a row."""


def batched(values: list[str], size: int) -> Iterator[list[str]]:
    """Pieces of at most this size, in order."""
    return (values[at : at + size] for at in range(0, len(values), size))


def dial(url: str, ping_timeout_s: float = 2.0) -> connect:
    """A connection that ends when the other side says nothing for a while: it is stopped, or the link is half-open."""
    return connect(
        url,
        compression=None,
        open_timeout=OPEN_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=PING_INTERVAL_S,
        ping_timeout=ping_timeout_s,
        max_size=2**24,
    )


@attrs.define(eq=False)
class LedgerSender:
    """Sends numbered messages into its rooms with at most ``window`` unacked, and writes each ack to a ledger.

    After a reconnect, to the next of its ``urls``, all unacked messages are repeated in their order, with their ids,
    before any new one. After a retryable error it sends nothing until it has heard of everything under way, pauses,
    and does the same on the same connection or, as a ``restless`` share of the times, on the next.

    Args:
        pace: new messages a second; ``None`` is as many as the window allows.
        padding: characters added to each text.
    """

    user_id: int
    rooms: list[str]
    urls: list[str]
    ledger: IO[str]
    window: int = 16
    limit: int | None = None
    seed: int | None = attrs.field(default=None, kw_only=True)
    pace: float | None = attrs.field(default=None, kw_only=True)
    padding: int = attrs.field(default=0, kw_only=True)
    restless: float = attrs.field(default=0.0, kw_only=True)
    numbers: dict[str, int] = attrs.field(factory=dict, init=False)
    unacked: dict[str, tuple[str, str]] = attrs.field(factory=dict, init=False)
    copies: int = attrs.field(default=0, init=False)
    acked: int = attrs.field(default=0, init=False)
    connects: int = attrs.field(default=0, init=False)
    reasons: Counter[str] = attrs.field(factory=Counter, init=False)
    acked_at: float = attrs.field(default=0.0, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _chance: random.Random = attrs.field(init=False)
    _under_way: int = attrs.field(default=0, init=False)
    _pause_s: float = attrs.field(default=FIRST_PAUSE_S, init=False)
    _budget: float = attrs.field(default=0.0, init=False)
    _budget_at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.user_id if self.seed is None else self.seed)

    @property
    def refused(self) -> int:
        """Answers that were retryable errors."""
        return self.reasons.total()

    @property
    def sent(self) -> int:
        """Different messages."""
        return sum(self.numbers.values())

    def stop(self) -> None:
        """Send nothing new; `run` returns when everything is acked."""
        self._stopping = True

    async def run(self) -> None:
        ping_timeout_s = self._chance.uniform(1.0, 3.0)
        for url in self._next_urls():
            if self._is_done():
                return
            try:
                async with dial(url, ping_timeout_s) as ws:
                    self.connects += 1
                    await self._say_hello(ws)
                    await self._converse(ws)
            except Gone:
                await asyncio.sleep(self._chance.uniform(0.02, 0.1))

    def _next_urls(self) -> Iterator[str]:
        first = self.user_id % len(self.urls)
        return itertools.cycle(self.urls[first:] + self.urls[:first])

    def _is_done(self) -> bool:
        return self._has_no_more() and not self.unacked

    def _has_no_more(self) -> bool:
        return self._stopping or (self.limit is not None and self.acked + len(self.unacked) >= self.limit)

    async def _say_hello(self, ws: ClientConnection) -> None:
        hello = {"op": "hello", "userId": self.user_id, "username": f"user{self.user_id}"}
        await ws.send(json.dumps(hello))
        answer = json.loads(await asyncio.wait_for(ws.recv(), OPEN_TIMEOUT_S))
        assert answer["op"] == "welcome", answer

    async def _converse(self, ws: ClientConnection) -> None:
        self._under_way = 0
        await self._repeat(ws)
        while not self._is_done():
            await self._send(ws, [self._new() for _ in range(self._due())])
            if await self._hear(ws):
                while self._under_way:
                    await self._hear(ws)
                await asyncio.sleep(self._pause_s * self._chance.uniform(0.5, 1.5))
                self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
                if self.restless > self._chance.random():
                    return
                await self._repeat(ws)

    def _due(self) -> int:
        """New messages to send now."""
        if self._has_no_more():
            return 0
        room = self.window - len(self.unacked)
        if self.limit is not None:
            room = min(room, self.limit - self.acked - len(self.unacked))
        if self.pace is None:
            return room
        now = asyncio.get_running_loop().time()
        earned = self.pace * (now - self._budget_at) if self._budget_at else 0.0
        self._budget, self._budget_at = min(self._budget + earned, float(self.window)), now
        due = min(room, int(self._budget))
        self._budget -= due
        return due

    def _new(self) -> str:
        """The id of the next message, unacked from now on."""
        room = self._chance.choice(self.rooms)
        self.numbers[room] = number = self.numbers.get(room, 0) + 1
        message_id = str(uuid_utils.uuid7())
        text = f"{self.user_id}:{number}"
        self.unacked[message_id] = (room, f"{text} {'x' * self.padding}" if self.padding else text)
        return message_id

    async def _repeat(self, ws: ClientConnection) -> None:
        await self._send(ws, list(self.unacked))

    async def _send(self, ws: ClientConnection, message_ids: list[str]) -> None:
        """Send these in as few frames as the largest allowed one permits."""
        for chunk in batched(message_ids, FRAME_MESSAGES):
            self.copies += len(chunk)
            self._under_way += len(chunk)
            await ws.send(json.dumps([self._said(message_id) for message_id in chunk]))

    def _said(self, message_id: str) -> dict[str, str]:
        room, text = self.unacked[message_id]
        return {"op": "send", "ref": message_id, "room": room, "text": text, "id": message_id}

    async def _hear(self, ws: ClientConnection) -> bool:
        """Take in one frame, or none within a tick; whether something was refused."""
        try:
            async with asyncio.timeout(None if self.pace is None else TICK_S):
                frame = await ws.recv()
        except TimeoutError:
            return False
        answers = json.loads(frame)
        is_refused = False
        for answer in answers if isinstance(answers, list) else [answers]:
            self._under_way -= 1
            if answer["op"] == "ack":
                self._on_ack(answer)
            else:
                assert answer["op"] == "error", answer
                assert answer["retryable"], answer
                self.reasons[answer["code"]] += 1
                is_refused = True
        return is_refused

    def _on_ack(self, answer: dict[str, Any]) -> None:
        if known := self.unacked.pop(answer["id"], None):
            self.acked += 1
            self.acked_at = asyncio.get_running_loop().time()
            self._pause_s = FIRST_PAUSE_S
            acked = {"messageId": answer["id"], "roomId": known[0], "userId": self.user_id}
            self.ledger.write(json.dumps(acked) + "\n")


@attrs.define(eq=False)
class Listener:
    """Joins one room and notes every ``seq`` it is given, across reconnects to each of its ``urls`` in turn."""

    room: str
    urls: list[str]
    seen: deque[int] = attrs.field(factory=deque, init=False)
    connects: int = attrs.field(default=0, init=False)
    _stopping: bool = attrs.field(default=False, init=False)

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        for url in itertools.cycle(self.urls):
            if self._stopping:
                return
            try:
                async with dial(url) as ws:
                    self.connects += 1
                    await ws.send(json.dumps({"op": "hello", "userId": 999, "username": "listener"}))
                    await self._join(ws)
                    while True:
                        if self._take(json.loads(await ws.recv())):
                            await asyncio.sleep(FIRST_PAUSE_S)
                            await self._join(ws)
            except Gone:
                await asyncio.sleep(0.05)

    async def _join(self, ws: ClientConnection) -> None:
        since = self.seen[-1] if self.seen else 0
        await ws.send(json.dumps({"op": "join", "ref": 1, "room": self.room, "since": since}))

    def _take(self, frame: Any) -> bool:
        """Note what came; whether the join was refused and must be repeated."""
        is_refused = False
        for item in frame if isinstance(frame, list) else [frame]:
            if item["op"] == "message" and item["room"] == self.room:
                self.seen.append(item["seq"])
            elif item["op"] == "joined":
                assert item["recovered"], "missed more than the server replays: raise CHATFLOW_REPLAY_LIMIT"
            elif item["op"] == "error":
                assert item["retryable"], item
                is_refused = True
        return is_refused
