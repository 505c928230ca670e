"""The shell around a session: owns its tasks, timers and subscriptions, and sends what it answers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.feed import FeedSubscriber
from chatflow.adapters.websockets.frames import (
    chat_replies,
    decode,
    decode_chat,
    ignore,
    session_answers,
    session_frames,
)
from chatflow.adapters.websockets.turns import Replays
from chatflow.domain.delivery import room_hub
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.core import Session
from chatflow.domain.session.effects import Authenticate, Close, Effect, Follow, Join, Leave, Timer
from chatflow.domain.session.feed import FeedSession, SilentSession
from chatflow.domain.session.resend_guard import Echo
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import IdentityError, StoreError
from chatflow.ports.socket import Socket

Decode = Callable[[str | bytes], Any]
Encode = Callable[[Sequence[Any]], list[bytes]]


@attrs.define(eq=False)
class Subscription:
    """One ``/ws`` session in one room: a `Subscriber`, new for each join, so that a late one cannot undo a newer."""

    driver: "SessionDriver"
    session: WsSession
    join: Join
    replays: Replays
    encode: room_hub.Encode = session_frames

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`."""
        self.session.joins.joined(self.join, head, recovered=recovered)

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`; answers that wait go out first."""
        if self.session.answers:
            self.driver.flush()
        self.driver.socket.send(frames)

    async def ready_for(self, messages: int) -> bool:
        """See `Subscriber.ready_for`; pages of history take turns."""
        await self.replays.turn(messages)
        return await self.driver.socket.drained()


@attrs.define(eq=False)
class SessionDriver:
    """One session on one socket, until `close`.

    Args:
        decode: a frame to the value that the session takes; raises `Malformed`.
        encode: the session's answers to frames.
    """

    session: Session
    socket: Socket
    decode: Decode
    encode: Encode
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)
    backpressure: Backpressure = attrs.field(init=False)
    _replays: Replays = attrs.field(init=False)
    _subscriptions: dict[Join, tuple[Subscription, asyncio.Task[None]]] = attrs.field(factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _timers: dict[Timer, asyncio.TimerHandle] = attrs.field(factory=dict, init=False)
    _followed: tuple[str, FeedSubscriber] | None = attrs.field(default=None, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        session = self.session
        self.backpressure = Backpressure(session.inflight)
        self._replays = Replays(session.context.pacer, session.rates)
        session.wake = self._wake
        self.perform()

    def flush(self) -> None:
        """Send the answers that wait, perform what the session decided, and ask for an echo behind it all."""
        self._send()
        if self.session.effects:
            self.perform()
        guard = self.session.guard
        if guard.is_active and not self._is_closed and (echo := guard.take_echo()) is not None:
            self._start(self._echo(echo))

    def perform(self) -> None:
        """Perform what the session decided."""
        effects = self.session.effects
        while effects:
            self._perform(effects.pop(0))

    def close(self) -> None:
        """The connection has gone."""
        self.session.closed()
        self.perform()
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._followed is not None:
            self.session.context.hub.leave(*self._followed)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _wake(self) -> None:
        self.loop.call_soon(self.flush)

    def _send(self) -> None:
        if frames := self.encode(self.session.take_answers()):
            self.socket.send(frames)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Join():
                self._join(effect)
            case Leave(join=join):
                self._leave(join)
            case Timer(delay_s=delay_s):
                if not self._is_closed:
                    self._timers[effect] = self.loop.call_later(delay_s, self._expire, effect)
            case Close(code=code, reason=reason):
                self._send()
                self.socket.close(code, reason)
            case Follow():
                self._start(self._follow(effect))
            case Authenticate():
                self._start(self._authenticate(effect))

    def _expire(self, timer: Timer) -> None:
        del self._timers[timer]
        if self.socket.is_open():
            timer.expired()
            self.flush()

    def _join(self, join: Join) -> None:
        assert isinstance(self.session, WsSession)  # noqa: S101  # no other session joins
        subscription = Subscription(self, self.session, join, self._replays)
        task = self.loop.create_task(self._subscribe(subscription))
        self._subscriptions[join] = subscription, task

    def _leave(self, join: Join) -> None:
        if entry := self._subscriptions.pop(join, None):
            subscription, task = entry
            task.cancel()
            self.session.context.hub.leave(join.room_id, subscription)

    async def _subscribe(self, subscription: Subscription) -> None:
        join = subscription.join
        try:
            await self.session.context.hub.join(join.room_id, subscription, join.since)
        except StoreError as exc:
            self._subscriptions.pop(join, None)
            subscription.session.joins.failed(join, exc)

    async def _follow(self, follow: Follow) -> None:
        session, hub = self.session, self.session.context.hub
        assert isinstance(session, FeedSession)  # noqa: S101  # no other session follows
        subscriber = FeedSubscriber(self.socket, self._replays)
        self._followed = follow.room_id, subscriber
        try:
            await hub.join(follow.room_id, subscriber, follow.since, unlimited=True)
        except StoreError:
            session.failed()
            self.flush()

    async def _authenticate(self, effect: Authenticate) -> None:
        authenticator = self.session.context.authenticator
        assert authenticator is not None  # noqa: S101  # without one no session asks
        try:
            principal = await authenticator.principal(effect.token)
        except IdentityError as exc:
            effect.failed(exc)
        else:
            effect.answered(principal)
        self.flush()

    async def _echo(self, echo: Echo) -> None:
        if await self.socket.echoed():
            await self.backpressure.caught_up()
            if self.socket.is_open():
                self.session.guard.echoed(echo)
                self.flush()

    def _start(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def drive_ws(session: WsSession, socket: Socket) -> SessionDriver:
    """The shell of a ``/ws`` connection."""
    return SessionDriver(session, socket, decode, session_answers)


def drive_chat(session: ChatSession, socket: Socket) -> SessionDriver:
    """The shell of a ``/chat`` connection."""
    return SessionDriver(session, socket, decode_chat, chat_replies)


def drive_silent(session: SilentSession, socket: Socket) -> SessionDriver:
    """The shell of a ``/feed`` connection, and of one that is turned away."""
    return SessionDriver(session, socket, ignore, lambda _: [])
