"""One ``/ws`` session in one room."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from chatflow.adapters.websockets.frames import session_frames
from chatflow.adapters.websockets.turns import Replays
from chatflow.domain.delivery.room_hub import Encode
from chatflow.domain.session.effects import Join
from chatflow.domain.session.ws import WsSession
from chatflow.ports.socket import Socket


class Outlet(Protocol):
    """Where a subscription's frames go."""

    @property
    def socket(self) -> Socket:
        """The connection."""

    def flush(self) -> None:
        """Send the answers that wait."""


@attrs.define(eq=False)
class Subscription:
    """A `Subscriber`; a new object for each join, so that a late one cannot undo a newer."""

    outlet: Outlet
    session: WsSession
    join: Join
    replays: Replays
    encode: Encode = session_frames

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`."""
        self.session.joins.joined(self.join, head, recovered=recovered)

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`; answers that wait go out first."""
        if self.session.answers:
            self.outlet.flush()
        self.outlet.socket.send(frames)

    async def ready_for(self, messages: int) -> bool:
        """See `Subscriber.ready_for`; pages of history take turns."""
        await self.replays.turn(messages)
        return await self.outlet.socket.drained()
