"""The rooms that one session is in, or is about to be."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.adapters.websockets.frames import session_frames
from chatflow.adapters.websockets.pending import ref_of
from chatflow.domain.delivery.room_hub import Encode
from chatflow.domain.session.errors import Denied, Superseded
from chatflow.domain.session.pacing import Replays
from chatflow.ports.errors import StoreError

if TYPE_CHECKING:
    from chatflow.adapters.websockets.session import Session


@attrs.define(eq=False)
class Subscription:
    """This session in one room; a new object for each join, so that a late one cannot undo a newer."""

    session: "Session"
    joins: "Joins"
    ref: object
    room_id: str
    encode: Encode = session_frames
    is_answered: bool = attrs.field(default=False, init=False)

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`."""
        self.answered()
        self.session.answer({"op": "joined", **ref_of(self.ref), "room": room_id, "head": head, "recovered": recovered})

    def answered(self) -> None:
        """The join has its answer, good or bad."""
        if not self.is_answered:
            self.is_answered = True
            self.session.inflight.settle()

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`; answers that wait go out first."""
        self.session.deliver(frames)

    async def ready_for(self, messages: int) -> bool:
        """See `Subscriber.ready_for`; pages of the past take turns."""
        await self.joins.replays.turn(messages)
        return await self.session.socket.drained()


@attrs.define(eq=False)
class Joins:
    """Each join is one subscription and one task; a later join or leave of its room supersedes it."""

    session: "Session"
    replays: Replays = attrs.field(init=False)
    _rooms: dict[str, tuple[Subscription, asyncio.Task[None]]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.replays = Replays(self.session.context.pacer)

    def check_room_for(self, room_id: str) -> None:
        """Whether there is room for one more.

        Raises:
            Denied: the connection is in as many rooms as it may be.
        """
        most = self.session.context.rooms_per_connection
        if room_id not in self._rooms and len(self._rooms) >= most:
            raise Denied("forbidden", f"at most {most} rooms per connection")

    def join(self, room_id: str, ref: object, since: int | None) -> None:
        """Begin; what comes of it is answered later."""
        self.leave(room_id)
        self.session.inflight.count += 1
        subscription = Subscription(self.session, self, ref, room_id)
        task = asyncio.get_running_loop().create_task(self._run(subscription, since))
        self._rooms[room_id] = (subscription, task)

    def leave(self, room_id: str) -> None:
        """Leave the room, and give up a join that has no answer."""
        if entry := self._rooms.pop(room_id, None):
            subscription, task = entry
            task.cancel()
            self.session.context.hub.leave(room_id, subscription)
            if not subscription.is_answered:
                subscription.answered()
                self.session.error(subscription.ref, Superseded())

    def leave_all(self) -> None:
        """The connection has gone."""
        for room_id in tuple(self._rooms):
            self.leave(room_id)

    async def _run(self, subscription: Subscription, since: int | None) -> None:
        try:
            await self.session.context.hub.join(subscription.room_id, subscription, since)
        except StoreError as exc:
            if (entry := self._rooms.get(subscription.room_id)) and entry[0] is subscription:
                del self._rooms[subscription.room_id]
            subscription.answered()
            self.session.error(subscription.ref, exc)
