"""What one session may do, by the token that it came with."""

import attrs

from chatflow.domain.permissions import may_read, may_write
from chatflow.domain.session.errors import NotGranted
from chatflow.ports.identity import Principal

REMEMBERED_ROOMS = 1024


@attrs.define(eq=False)
class Access:
    """The rooms of one principal. Rooms that were found writable are remembered, since each message asks."""

    principal: Principal
    _writable: set[str] = attrs.field(factory=set, init=False)

    def check_read(self, room_id: str) -> None:
        """Whether the room may be joined or followed.

        Raises:
            NotGranted: no grant covers it.
        """
        if not may_read(self.principal, room_id):
            raise NotGranted("join", f"the token does not allow reading room {room_id}", room_id)

    def check_write(self, room_id: str) -> None:
        """Whether messages may be sent to the room.

        Raises:
            NotGranted: no grant covers it.
        """
        if room_id in self._writable:
            return
        if not may_write(self.principal, room_id):
            raise NotGranted("send", f"the token does not allow writing to room {room_id}", room_id)
        if len(self._writable) >= REMEMBERED_ROOMS:
            self._writable.clear()
        self._writable.add(room_id)

    def check_user(self, user_id: int | None, username: str | None) -> None:
        """Whether a claimed name is the token's; ``None`` claims nothing.

        Raises:
            NotGranted: it is another one.
        """
        if user_id is not None and user_id != self.principal.user_id:
            raise NotGranted("sign_in", "userId is not the token's")
        if username is not None and username != self.principal.username:
            raise NotGranted("sign_in", "username is not the token's")
