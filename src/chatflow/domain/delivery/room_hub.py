"""Use case: deliver each stored message of a room to everybody who joined it, once and in order.

A subscriber is *catching up* from its join until it has received everything stored before; what the room delivers
meanwhile is kept for it. From then on it is *live*: it has received exactly what its room has delivered, so one encoded
frame serves every live subscriber of a kind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import attrs

from chatflow.domain.delivery.head_reads import HeadReads
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.sequencer import RoomSequencer
from chatflow.ports.broker import LiveEnvelope
from chatflow.ports.errors import StoreError, StoreUnavailable
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import MessageReader

PAGE = 100
REPAIR_PAUSE_S = 0.1
REPLAY_LIMIT = 1_000
"""The default, of the setting too."""

Encode = Callable[[Sequence[StoredMessage]], list[bytes]]


class Subscriber(Protocol):
    """One client in one room."""

    encode: Encode
    """Messages to frames; subscribers with the same function share the frames."""

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """The room's last seq at the join, and whether everything after ``since`` follows."""

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Send; never waits."""

    async def ready_for(self, messages: int) -> bool:
        """Wait until that many messages of its history may be read; ``False`` when it has gone."""


@attrs.define(eq=False)
class _CatchUp:
    """What a room delivered while a subscriber was still reading its history."""

    limit: int
    kept: list[StoredMessage] = attrs.field(factory=list)
    overflowed: bool = False

    def add(self, messages: Sequence[StoredMessage]) -> None:
        if len(self.kept) + len(messages) > self.limit:
            self.kept.clear()
            self.overflowed = True
        else:
            self.kept += messages


@attrs.define(eq=False)
class _HubRoom:
    room_id: str
    sequencer: RoomSequencer = attrs.field(factory=RoomSequencer)
    live: dict[Encode, set[Subscriber]] = attrs.field(factory=dict)
    catching: dict[Subscriber, _CatchUp] = attrs.field(factory=dict)
    repair: asyncio.Task[None] | None = None
    moved: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def is_empty(self) -> bool:
        return not self.live and not self.catching

    def spread(self, due: Sequence[StoredMessage]) -> int:
        if not due:
            return 0
        self.moved.set()
        self.moved = asyncio.Event()
        for catch_up in self.catching.values():
            catch_up.add(due)
        reached = 0
        for encode, subscribers in self.live.items():
            frames = encode(due)
            reached += len(subscribers)
            for subscriber in tuple(subscribers):
                subscriber.deliver(frames)
        return reached * len(due)

    def go_live(self, subscriber: Subscriber) -> None:
        self.catching.pop(subscriber, None)
        self.live.setdefault(subscriber.encode, set()).add(subscriber)

    def discard(self, subscriber: Subscriber) -> None:
        self.catching.pop(subscriber, None)
        if group := self.live.get(subscriber.encode):
            group.discard(subscriber)
            if not group:
                del self.live[subscriber.encode]


@attrs.define(eq=False)
class RoomHub:
    """The rooms of one gateway that have subscribers; a room is dropped with its last one.

    Args:
        replay_limit: the most messages that a join replays; a client that missed more reads the rest by REST.
        concurrent_reads: store reads at a time; further joins wait.

    Attributes:
        is_idle: nobody is in any room.
    """

    reader: MessageReader
    metrics: DeliveryMetrics
    replay_limit: int = attrs.field(kw_only=True, default=REPLAY_LIMIT)
    concurrent_reads: int = attrs.field(kw_only=True, default=8)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    is_idle: bool = attrs.field(default=True, init=False)
    _rooms: dict[str, _HubRoom] = attrs.field(factory=dict, init=False)
    _reads: asyncio.Semaphore = attrs.field(init=False)
    _head_reads: HeadReads = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reads = asyncio.Semaphore(self.concurrent_reads)
        self._head_reads = HeadReads(self._heads)

    @property
    def active_rooms(self) -> int:
        """Rooms with at least one subscriber."""
        return len(self._rooms)

    async def join(self, room_id: str, subscriber: Subscriber, since: int | None, *, unlimited: bool = False) -> None:
        """Subscribe, replay what was stored after ``since``, and stay live until `leave`.

        Returns once the subscriber is live or has gone. Without ``since`` nothing is replayed, and nothing either
        when it is more than ``replay_limit``, unless ``unlimited``.

        Raises:
            StoreError: the history cannot be read now; the subscriber is not in the room.
        """
        room = self._rooms.get(room_id)
        if room is None:
            room = self._rooms[room_id] = _HubRoom(room_id)
            self.is_idle = False
        room.discard(subscriber)
        room.catching[subscriber] = _CatchUp(self.replay_limit)
        try:
            await self._enter(room, subscriber, since, unlimited)
        except BaseException:
            self.leave(room_id, subscriber)
            raise

    def leave(self, room_id: str, subscriber: Subscriber) -> None:
        """Unsubscribe; does nothing when it is not in the room."""
        room = self._rooms.get(room_id)
        if room is None:
            return
        room.discard(subscriber)
        if room.is_empty:
            del self._rooms[room_id]
            self.is_idle = not self._rooms
            room.moved.set()  # nothing moves it any more: a join that waits sees that it was left
            if room.repair is not None:
                room.repair.cancel()

    def on_live(self, envelope: LiveEnvelope) -> None:
        """Take what was just committed."""
        rooms = self._rooms
        if not rooms:
            return
        by_room: dict[str, list[StoredMessage]] = {}
        for stored in envelope.messages:
            room_id = stored.message.room_id
            if room_id in rooms:
                by_room.setdefault(room_id, []).append(stored)
        for room_id, messages in by_room.items():
            self._offer(rooms[room_id], messages)

    async def resync(self) -> None:
        """Compare every room with the store's heads and repair what the live channel lost.

        Raises:
            StoreError: not compared; try again.
        """
        for room_id, head in (await self._heads(list(self._rooms))).items():
            if room := self._rooms.get(room_id):
                room.sequencer.note_head(head)
                self._repair_if_needed(room)

    async def _enter(self, room: _HubRoom, subscriber: Subscriber, since: int | None, unlimited: bool) -> None:
        head = await self._head_reads.of(room.room_id)
        if subscriber not in room.catching:
            return
        if room.sequencer.last is None:
            self._spread(room, room.sequencer.start(head))
        room.sequencer.note_head(head)
        self._repair_if_needed(room)
        if not await self._reached(room, subscriber, head):
            return
        recovered = since is None or 0 <= head - since <= (head if unlimited else self.replay_limit)
        subscriber.joined(room.room_id, head, recovered)
        await self._replay(room, subscriber, since if since is not None and recovered else head)

    async def _heads(self, room_ids: list[str]) -> dict[str, int]:
        if not room_ids:
            return {}
        async with self._reads:
            return await self.reader.heads(room_ids)

    async def _range(self, room: _HubRoom, after_seq: int, count: int) -> list[StoredMessage]:
        async with self._reads:
            return await self.reader.room_range(room.room_id, after_seq=after_seq, limit=min(PAGE, count))

    async def _reached(self, room: _HubRoom, subscriber: Subscriber, head: int) -> bool:
        while subscriber in room.catching and (room.sequencer.last or 0) < head:
            await room.moved.wait()
        return subscriber in room.catching

    async def _replay(self, room: _HubRoom, subscriber: Subscriber, cursor: int) -> None:
        """Give what is stored after ``cursor``, then what the room delivered meanwhile, and go live in one step."""
        while (catch_up := room.catching.get(subscriber)) is not None:
            goal = room.sequencer.last or 0
            catch_up.kept.clear()
            catch_up.overflowed = False
            cursor = await self._replay_stored(room, subscriber, cursor, goal)
            if subscriber in room.catching and not catch_up.overflowed:
                late = [stored for stored in catch_up.kept if stored.seq > cursor]
                if late:
                    subscriber.deliver(subscriber.encode(late))
                room.go_live(subscriber)

    async def _replay_stored(self, room: _HubRoom, subscriber: Subscriber, cursor: int, goal: int) -> int:
        while cursor < goal and subscriber in room.catching:
            count = min(PAGE, goal - cursor)
            if not await subscriber.ready_for(count):
                self.leave(room.room_id, subscriber)
                break
            page = await self._range(room, cursor, count)
            if not page:
                raise StoreUnavailable(f"room {room.room_id} has no message after {cursor}, but stands at {goal}")
            if subscriber not in room.catching:
                break
            subscriber.deliver(subscriber.encode(page))
            cursor = page[-1].seq
        return cursor

    def _offer(self, room: _HubRoom, messages: Iterable[StoredMessage]) -> None:
        self._spread(room, room.sequencer.offer(messages))
        self._repair_if_needed(room)

    def _spread(self, room: _HubRoom, due: Sequence[StoredMessage]) -> None:
        self.metrics.delivered += room.spread(due)

    def _repair_if_needed(self, room: _HubRoom) -> None:
        if room.repair is None and room.sequencer.missing() is not None:
            room.repair = asyncio.get_running_loop().create_task(self._repair(room), name=f"repair-{room.room_id}")

    async def _repair(self, room: _HubRoom) -> None:
        try:
            while (gap := room.sequencer.missing()) is not None:
                after, count = gap
                try:
                    page = await self._range(room, after, count)
                except StoreError:
                    page = []
                self.metrics.repaired += len(page)
                self._spread(room, room.sequencer.offer(page))
                if not page:
                    await self.sleep(REPAIR_PAUSE_S)
        finally:
            room.repair = None
