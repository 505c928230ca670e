"""Clients as the protocols mean them to be: they pipeline, repeat what was refused or not answered with the same id and
in order, come back after a disconnect, and note what they saw."""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from tests.simulation.faults import ClientPlan, Dice
from tests.simulation.loop import SimulationLoop
from tests.simulation.verdict import Verdict
from tests.simulation.wire import Connection, Send

REPLY_PATIENCE_S = (4.0, 1e9)
"""Some clients try another connection when no answer comes, some wait for ever: they would notice a lost answer."""
WATCH_S = 2.0
RECONNECT_PAUSE_S = 0.1
BACKOFF_S = 0.05


@attrs.define(eq=False)
class Lane:
    """What a client writes to one room.

    Attributes:
        texts: everything it will ever write here, in order.
        ids: its own for each of them, ``None`` when the gateway gives one.
        released: how many of them it has come to write.
        pending: places of those without an ack, in order.
        unanswered: those of them that were sent on this connection and have no answer.
        acked: the id that each was acked with.
        holds: a refusal came; nothing is sent until all is answered and a pause is over.
        is_forfeited: a repetition took longer than a gateway waits for it, so order is not promised.
    """

    room: str
    texts: list[str] = attrs.field(factory=list)
    ids: list[str | None] = attrs.field(factory=list)
    released: int = 0
    pending: list[int] = attrs.field(factory=list)
    unanswered: set[int] = attrs.field(factory=set)
    sent: set[int] = attrs.field(factory=set)
    acked: dict[int, str] = attrs.field(factory=dict)
    holds: bool = False
    is_forfeited: bool = False


@attrs.define(eq=False)
class Seat:
    """A client in a room that it reads.

    Attributes:
        last: the last ``seq`` it saw; ``None`` before its first join was answered.
        joins: how many times it asked to join; answers to earlier ones are not for it.
        is_joining: the last join is not answered.
    """

    room: str
    last: int | None
    joins: int = 0
    is_joining: bool = False
    is_in: bool = False

    @property
    def ref(self) -> str:
        return f"join/{self.room}/{self.joins}"


@attrs.define(eq=False)
class Client:
    """One client; ``connect`` opens a connection to some gateway that is up, or returns ``None``.

    Attributes:
        has_vanished: it will never be back.
    """

    name: str
    user_id: int
    plan: ClientPlan
    loop: SimulationLoop
    verdict: Verdict
    dice: Dice
    connect: Callable[["Client"], Connection | None]
    head_of: Callable[[str], int]
    replay_limit: int
    lanes: dict[str, Lane] = attrs.field(init=False)
    seats: dict[str, Seat] = attrs.field(init=False)
    connection: Connection | None = None
    has_vanished: bool = False
    expected: deque[tuple[Lane, int]] = attrs.field(factory=deque)
    heard_at: float = 0.0
    _handled_at: float = 0.0
    _patience_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._patience_s = self.dice.rng.choice(REPLY_PATIENCE_S)
        rooms = [f"r{room}" for room in self.plan.rooms]
        self.lanes = {room: Lane(room) for room in rooms}
        first = 0 if self.plan.from_start else None
        reads = self.plan.reads and self.plan.protocol == "ws"
        self.seats = {room: Seat(room, first) for room in rooms} if reads else {}
        for count in range(self.plan.messages):
            lane = self.lanes[rooms[count % len(rooms)]]
            poison = "poison " if self.plan.poison and count % self.plan.poison == 0 else ""
            lane.texts.append(f"{poison}{len(lane.texts)}")
            # Everybody gives the same ids: nobody's message may take another's place.
            lane.ids.append(f"01970000-0000-7000-8000-{count:012x}" if self.plan.has_ids else None)

    @property
    def is_content(self) -> bool:
        """Everything is acked, and every room is read up to its head."""
        if self.has_vanished:
            return True
        written = all(len(lane.acked) == len(lane.texts) for lane in self.lanes.values())
        return written and all(seat.is_in and seat.last == self.head_of(seat.room) for seat in self.seats.values())

    def start(self) -> None:
        """Connect, and write as time goes by."""
        self._reconnect()
        for lane in self.lanes.values():
            for number in range(len(lane.texts)):
                self.loop.after(self.dice.between(0.0, 4.5) if number else 0.01, self._release, lane)
        self.loop.after(WATCH_S, self._watch)

    def vanish(self) -> None:
        self.has_vanished = True
        self.drop()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.cut()

    def stall(self, length_s: float) -> None:
        """Read nothing for a while."""
        if (connection := self.connection) is not None:
            connection.is_reading = False
            self.loop.after(length_s, connection.read_on)

    def rejoin(self) -> None:
        """Leave and join again in one breath."""
        for seat in self.seats.values():
            if self.connection is not None and seat.is_in:
                self._write({"op": "leave", "room": seat.room})
                self._join(seat)

    # Called by the connection.

    def disconnected(self, connection: Connection, code: int) -> None:
        if connection is self.connection:
            self.connection = None
            self.verdict.check(code != 1008, "closed for breaking a rule")
            self.loop.after(RECONNECT_PAUSE_S + self.dice.latency(), self._reconnect)

    def received(self, connection: Connection, items: list[dict[str, Any]]) -> None:
        if not self.plan.lags:
            self._handle_all(connection, items)
            return
        self._handled_at = max(self._handled_at, self.loop.time() + self.dice.latency())
        self.loop.call_at(self._handled_at, self._handle_all, connection, items, context=self.loop.world.context)

    def send_of(self, item: dict[str, Any]) -> Send | None:
        if item.get("status") == "error":
            text = item["originalMessage"]["message"]
            return self._chat_room, self.lanes[self._chat_room].texts.index(text)
        ref = str(item.get("ref"))
        if item.get("op") != "error" or ref.startswith("join/"):
            return None
        room, _, number = ref.partition("/")
        return room, int(number)

    def room_of(self, item: dict[str, Any]) -> str:
        return str(item["ref"]).partition("/")[0] if "ref" in item else self._chat_room

    def forfeits(self, room: str) -> None:
        self.lanes[room].is_forfeited = True

    def _handle_all(self, connection: Connection, items: list[dict[str, Any]]) -> None:
        for item in items:
            if connection is self.connection:
                self._handle(item)

    @property
    def _chat_room(self) -> str:
        return next(iter(self.lanes))

    def _handle(self, item: dict[str, Any]) -> None:
        match item.get("op"):
            case None:
                self._chat_reply(item)
            case "ack":
                self._acked(*self._expect(item["ref"]), item["id"])
            case "error" if str(item.get("ref")).startswith("join/"):
                self.verdict.check(item["retryable"], f"a join failed for good: {item}")
                self._join_failed(item["ref"])
            case "error":
                self.verdict.check(item["retryable"], f"refused for good: {item}")
                self._refused(*self._expect(item["ref"]))
            case "joined":
                self._joined(self.seats[item["room"]], item)
            case "message":
                self._message(self.seats[item["room"]], item)

    def _chat_reply(self, item: dict[str, Any]) -> None:
        if not self.expected:
            self.verdict.wrong(f"{self.name} got an answer to nothing: {item}")
            return
        lane, number = self.expected.popleft()
        echoed = item["originalMessage"]["message"]
        self.verdict.check(echoed == lane.texts[number], f"{self.name} got the answer to {echoed}")
        if item["status"] == "success":
            self._acked(lane, number, item["messageId"])
        else:
            self.verdict.check("retry" in item["errorMessage"], f"refused for good: {item}")
            self._refused(lane, number)

    def _expect(self, ref: str) -> tuple[Lane, int]:
        room, _, number = ref.partition("/")
        return self.lanes[room], int(number)

    # Writing.

    def _release(self, lane: Lane) -> None:
        lane.pending.append(lane.released)
        lane.released += 1
        self._write_on(lane)

    def _write_on(self, lane: Lane) -> None:
        if self.connection is None or lane.holds:
            return
        for number in lane.pending:
            if len(lane.unanswered) >= self.plan.window:
                return
            if number not in lane.unanswered:
                self._send(lane, number)

    def _send(self, lane: Lane, number: int) -> None:
        if not lane.unanswered:
            self.heard_at = self.loop.time()
        lane.unanswered.add(number)
        lane.sent.add(number)
        self.expected.append((lane, number))
        own_id = lane.ids[number]
        if self.plan.protocol == "chat":
            fields = {"userId": self.user_id, "username": "ada", "message": lane.texts[number], "messageType": "TEXT"}
            own = {"messageId": own_id} if own_id else {}
            self._write({**fields, "timestamp": "2026-11-24T01:31:00.123Z", **own}, (lane.room, number))
            return
        every = self.plan.wants_stored
        wish = {"ack": "stored"} if every and number % every == 0 else {}
        fields = {"op": "send", "ref": f"{lane.room}/{number}", "room": lane.room, "text": lane.texts[number]}
        own = {"id": own_id} if own_id else {}
        self._write({**fields, **own, **wish}, (lane.room, number))

    def _acked(self, lane: Lane, number: int, message_id: str) -> None:
        self._answered(lane, number)
        self.verdict.check(lane.ids[number] in {None, message_id}, f"{lane.ids[number]} was acked as {message_id}")
        lane.acked[number] = message_id
        if number in lane.pending:
            lane.pending.remove(number)
        self._after_answer(lane)

    def _refused(self, lane: Lane, number: int) -> None:
        self._answered(lane, number)
        lane.holds = self.plan.is_patient
        self._after_answer(lane)

    def _answered(self, lane: Lane, number: int) -> None:
        self.heard_at = self.loop.time()
        self.verdict.check(number in lane.unanswered, f"{self.name} got a second answer to {lane.room}/{number}")
        lane.unanswered.discard(number)

    def _after_answer(self, lane: Lane) -> None:
        if not lane.holds:
            self._write_on(lane)
        elif not lane.unanswered:
            self.loop.after(BACKOFF_S + self.dice.latency(), self._resume, lane, self.connection)

    def _resume(self, lane: Lane, connection: Connection | None) -> None:
        if connection is self.connection:
            lane.holds = False
            self._write_on(lane)

    # Reading.

    def _join(self, seat: Seat) -> None:
        seat.joins += 1
        seat.is_joining, seat.is_in = True, False
        since = {} if seat.last is None else {"since": seat.last}
        self._write({"op": "join", "ref": seat.ref, "room": seat.room, **since})

    def _join_failed(self, ref: str) -> None:
        """Before it was answered, or when its replay broke off behind the answer: join again where it stands."""
        for seat in self.seats.values():
            if seat.ref == ref:
                seat.is_joining, seat.is_in = True, False
                self.loop.after(BACKOFF_S, self._join_again, self.connection, seat, ref)

    def _join_again(self, connection: Connection | None, seat: Seat, ref: str) -> None:
        if connection is self.connection and connection is not None and seat.ref == ref:
            self._join(seat)

    def _joined(self, seat: Seat, item: dict[str, Any]) -> None:
        if item["ref"] != seat.ref:
            return
        head, recovered = item["head"], item["recovered"]
        self.heard_at = self.loop.time()
        if seat.last is not None:
            near = 0 <= head - seat.last <= self.replay_limit
            self.verdict.check(recovered == near, f"since {seat.last}, head {head}: recovered {recovered}")
        if seat.last is None or not recovered:
            seat.last = head
        seat.is_joining, seat.is_in = False, True

    def _message(self, seat: Seat, item: dict[str, Any]) -> None:
        if seat.is_joining:
            return
        assert seat.last is not None
        self.verdict.on_delivery(item, seat.last + 1)
        seat.last += 1

    # Connecting.

    def _reconnect(self) -> None:
        if self.has_vanished or self.connection is not None:
            return
        self.connection = self.connect(self)
        if self.connection is None:
            self.loop.after(RECONNECT_PAUSE_S, self._reconnect)
            return
        self.expected.clear()
        self.heard_at = self.loop.time()
        if self.plan.protocol == "ws":
            self._write({"op": "hello", "userId": self.user_id, "username": "ada"})
        for seat in self.seats.values():
            self._join(seat)
        for lane in self.lanes.values():
            lane.unanswered.clear()
            lane.holds = False
            self._write_on(lane)

    def _watch(self) -> None:
        """An answer that does not come, or a join: try another connection."""
        self.loop.after(WATCH_S, self._watch)
        waits = any(lane.unanswered for lane in self.lanes.values()) or any(s.is_joining for s in self.seats.values())
        connection = self.connection
        if waits and connection is not None and self.loop.time() - self.heard_at > self._patience_s:
            connection.leave()

    def _write(self, fields: dict[str, Any], send: Send | None = None) -> None:
        assert self.connection is not None
        self.connection.write(json.dumps(fields), send)
