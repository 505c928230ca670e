"""What a session asks of the shell around it, besides sending its answers."""

from collections.abc import Callable

import attrs

from chatflow.ports.errors import IdentityError
from chatflow.ports.identity import Principal


@attrs.frozen
class Close:
    """Send the answers that wait, then start the closing handshake."""

    code: int
    reason: str


@attrs.frozen(eq=False)
class Timer:
    """Call ``expired`` after ``delay_s`` seconds unless the connection has ended by then. Compared by identity."""

    delay_s: float
    expired: Callable[[], None]


@attrs.define(eq=False)
class Join:
    """Subscribe this connection to a room; report to `Joins.joined` or `Joins.failed`. Compared by identity."""

    room_id: str
    ref: object
    since: int | None
    is_answered: bool = attrs.field(default=False, init=False)


@attrs.frozen
class Leave:
    """Give up the subscription that this join began."""

    join: Join


@attrs.frozen(eq=False)
class Follow:
    """Send what is stored in a room after ``since``, or from now on, to the connection's end.

    A failure is reported to `FeedSession.failed`.
    """

    room_id: str
    since: int | None


@attrs.frozen(eq=False)
class Authenticate:
    """Find out whose token this is, and call one of the two; neither once the connection has gone."""

    token: str = attrs.field(repr=False)
    answered: Callable[[Principal], None]
    failed: Callable[[IdentityError], None]


Effect = Close | Timer | Join | Leave | Follow | Authenticate
