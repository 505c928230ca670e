"""A sender that keeps its schedule whatever happens, and a listener, both noting when they heard what."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Sequence
from itertools import pairwise

import attrs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.harness.waiting import eventually

ROOMS = [f"probe-{number}" for number in range(20)]
HELLO = '{"op":"hello","userId":1,"username":"probe"}'
USERS = 4


@attrs.frozen
class Moment:
    """Message ``number``, and when it was sent, acknowledged, refused or delivered."""

    number: int
    at: float


@attrs.define(eq=False)
class Probe:
    """``rate`` messages a second over a few connections; nothing is sent again, so what is refused stays refused."""

    port: int
    rate: int
    sent: list[Moment] = attrs.field(init=False, factory=list)
    acked: list[Moment] = attrs.field(init=False, factory=list)
    refused: list[Moment] = attrs.field(init=False, factory=list)
    delivered: list[Moment] = attrs.field(init=False, factory=list)
    broken: BaseException | None = attrs.field(init=False, default=None)
    _sockets: list[ClientConnection] = attrs.field(init=False, factory=list)
    _tasks: list[asyncio.Task[None]] = attrs.field(init=False, factory=list)
    _sending: asyncio.Task[None] = attrs.field(init=False)

    async def open(self) -> None:
        for number in range(USERS + 1):
            socket = await connect(f"ws://127.0.0.1:{self.port}/ws", compression=None, max_size=2**24, max_queue=None)
            await socket.send(HELLO)
            await socket.recv()
            if number == USERS:
                await _join_all(socket)
            self._sockets.append(socket)
            self._tasks.append(asyncio.create_task(self._hear(socket)))

    def start(self) -> None:
        self._sending = asyncio.create_task(self._send())

    async def stop(self, within_s: float = 60.0) -> None:
        """Send no more, and wait until each message was answered and each acknowledged one delivered."""
        self._sending.cancel()
        await asyncio.wait([self._sending])
        with contextlib.suppress(TimeoutError):
            await eventually(self._is_over, "the end of everything sent", patience_s=within_s)

    def _is_over(self) -> bool:
        return len(self.acked) + len(self.refused) >= len(self.sent) and not self.undelivered()

    def undelivered(self) -> int:
        """Acknowledged messages that the listener has not seen."""
        return len({moment.number for moment in self.acked} - {moment.number for moment in self.delivered})

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for socket in self._sockets:
            socket.transport.abort()
        if self.broken is not None:
            raise RuntimeError("a connection to the gateway was lost") from self.broken

    async def _send(self) -> None:
        begin = time.monotonic()
        number = 0
        while True:
            while number < (time.monotonic() - begin) * self.rate:
                frame = {"op": "send", "ref": number, "room": ROOMS[number % len(ROOMS)], "text": str(number)}
                self.sent.append(Moment(number, time.monotonic()))
                await self._sockets[number % USERS].send(json.dumps(frame))
                number += 1
            await asyncio.sleep(0.001)

    async def _hear(self, socket: ClientConnection) -> None:
        try:
            while True:
                self._note(json.loads(await socket.recv()))
        except ConnectionClosed as exc:
            self.broken = exc

    def _note(self, frame: dict[str, object] | list[dict[str, object]]) -> None:
        now = time.monotonic()
        lists = {"ack": self.acked, "error": self.refused}
        for item in frame if isinstance(frame, list) else [frame]:
            if (known := lists.get(str(item["op"]))) is not None:
                known.append(Moment(int(str(item["ref"])), now))
            elif item["op"] == "message":
                self.delivered.append(Moment(int(str(item["text"])), now))


async def _join_all(socket: ClientConnection) -> None:
    await socket.send(json.dumps([{"op": "join", "ref": 0, "room": room} for room in ROOMS]))
    joined = 0
    while joined < len(ROOMS):
        answers = json.loads(await socket.recv())
        joined += sum(each["op"] == "joined" for each in (answers if isinstance(answers, list) else [answers]))


def longest_pause_s(moments: Sequence[Moment], since: float) -> float:
    """The longest time without any after ``since``."""
    times = [since, *(moment.at for moment in moments if moment.at > since)]
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


def first_after(moments: Sequence[Moment], since: float) -> float | None:
    """Seconds from ``since`` to the first."""
    return next((moment.at - since for moment in moments if moment.at > since), None)


def slowest_s(sent: Sequence[Moment], answered: Sequence[Moment]) -> float:
    """The longest time from sending to the answer; infinite when one is missing."""
    at = {moment.number: moment.at for moment in answered}
    return max((at.get(moment.number, math.inf) - moment.at for moment in sent), default=0.0)


def settled_after_s(sent: Sequence[Moment], heard: Sequence[Moment], since: float, limit_s: float) -> float | None:
    """Seconds from ``since`` until whatever is sent is heard of within ``limit_s``; ``None`` if that never comes."""
    at = {moment.number: moment.at for moment in heard}
    later = [moment for moment in sent if moment.at >= since]
    late = [moment.at for moment in later if at.get(moment.number, math.inf) - moment.at > limit_s]
    last = max(late, default=since)
    return last - since if any(moment.at > last for moment in later) else None
