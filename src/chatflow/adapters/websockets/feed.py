"""``/feed/{room}``: the read-only companion of the compatible protocol."""

from collections.abc import Sequence

import attrs

from chatflow.adapters.websockets.frames import feed_frames
from chatflow.adapters.websockets.turns import Replays
from chatflow.domain.delivery.room_hub import Encode
from chatflow.domain.messages.errors import InvalidInput
from chatflow.ports.socket import Socket


@attrs.define(eq=False)
class FeedSubscriber:
    """One ``/feed/{room}`` connection."""

    socket: Socket
    replays: Replays
    encode: Encode = feed_frames

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`; this protocol has no answer to a join."""

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`."""
        self.socket.send(frames)

    async def ready_for(self, messages: int) -> bool:
        """See `Subscriber.ready_for`; pages of history take turns."""
        await self.replays.turn(messages)
        return await self.socket.drained()


def since_of(values: Sequence[str]) -> int | None:
    """The ``since`` parameter; ``None`` when it is not given.

    Raises:
        InvalidInput: not a sequence number.
    """
    if not values:
        return None
    text = values[-1]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidInput("Invalid since: must be a sequence number, 0 or more")
    return int(text)
