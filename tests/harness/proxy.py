"""A TCP proxy that breaks, on demand, the link between any two parts."""

import asyncio
import contextlib
import functools
import socket
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from typing import Literal, Self

import attrs
import uvloop

from tests.harness.link import Conditions, Ending, Link, Pump, reset
from tests.harness.ports import LOOPBACK, free_port

BACKLOG = 128
CALL_DEADLINE_S = 10.0

Direction = Literal["up", "down", "both"]


@attrs.define(eq=False)
class FaultProxy:
    """Forwards its own port to ``target_host:target_port`` until a fault is injected.

    It runs on a thread and a loop of its own, so that it works while the test's loop is busy; every method may be
    called from anywhere, and when it returns, its effect has begun. Faults add up and hold for present and new
    connections until `heal`. Directions are as the client sees them: ``up`` towards the server. Each connection holds
    at most ``limit_bytes`` (and what its sockets hold) per direction. While the target refuses connections, clients
    are accepted and reset.
    """

    target_host: str
    target_port: int
    limit_bytes: int = attrs.field(default=2**20, kw_only=True)
    port: int = attrs.field(factory=free_port, init=False)
    accepted: int = attrs.field(default=0, init=False)
    _up: Conditions = attrs.field(factory=Conditions, init=False)
    _down: Conditions = attrs.field(factory=Conditions, init=False)
    # A connection's task; None while the server has not accepted it yet.
    _served: "dict[asyncio.Task[None], Link | None]" = attrs.field(factory=dict, init=False)
    _listener: "asyncio.Task[None] | None" = attrs.field(default=None, init=False)
    _loop: asyncio.AbstractEventLoop = attrs.field(init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def start(self) -> Self:
        """Listen."""
        self._loop = uvloop.new_event_loop()
        name = f"fault-proxy-{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        self._do(self._listen())
        return self

    def close(self) -> None:
        """Reset every connection and stop."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_DEADLINE_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, target_url: str) -> str:
        """``target_url`` with the proxy's address in place of the target's."""
        parts = urllib.parse.urlsplit(target_url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{LOOPBACK}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(link is not None for link in list(self._served.values()))

    @property
    def bytes_up(self) -> int:
        """Bytes written to the server's sockets."""
        return self._up.forwarded_bytes

    @property
    def bytes_down(self) -> int:
        return self._down.forwarded_bytes

    def cut(self, ending: Ending = "rst") -> None:
        """Reset every connection on both sides and drop what is held; new connections work."""
        self._do(self._cut(ending))

    def refuse(self) -> None:
        """Refuse new connections, as a closed port does; open ones are not touched."""
        self._do(self._deafen())

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Delay each chunk; delaying both directions adds twice as much to a round trip."""
        self._do(self._change(direction, delay_s=seconds))

    def throttle(self, bytes_per_s: float, direction: Direction = "both") -> None:
        """Limit the bandwidth of each connection and direction."""
        self._do(self._change(direction, bytes_per_s=bytes_per_s))

    def stall(self, direction: Direction = "both") -> None:
        """Stop reading and forwarding: senders fill their buffers. Nothing is lost; `heal` resumes the flow."""
        self._do(self._change(direction, stalled=True))

    def half_open(self, direction: Direction = "both") -> None:
        """Swallow all data, and the end of a connection too: neither side hears from the other.

        In direction ``up`` or ``both`` new connections are accepted without one to the server. `heal` resets the
        connections that have lost something.
        """
        self._do(self._change(direction, swallowing=True))

    def heal(self) -> None:
        """Remove every fault."""
        self._do(self._heal())

    # On the proxy's loop.

    def _do(self, step: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(CALL_DEADLINE_S)

    async def _change(self, direction: Direction, **fault: float | bool | None) -> None:
        chosen = {"up": [self._up], "down": [self._down], "both": [self._up, self._down]}[direction]
        for conditions in chosen:
            for name, value in fault.items():
                setattr(conditions, name, value)
        for link in filter(None, self._served.values()):
            link.conditions_changed()

    async def _cut(self, ending: Ending) -> None:
        for task, link in self._served.items():
            if link is not None:
                link.ending = ending
            task.cancel()
        if ending == "rst" and self._served:
            await asyncio.wait(self._served)

    async def _heal(self) -> None:
        for task, link in self._served.items():
            if link is not None and link.has_lost:
                link.ending = "rst"
                task.cancel()
        await self._change("both", delay_s=0.0, bytes_per_s=None, stalled=False, swallowing=False)
        if self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._listener = self._loop.create_task(self._accept(listener))

    async def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None

    async def _close(self) -> None:
        await self._deafen()
        await self._cut("rst")

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                self.accepted += 1
                task = self._loop.create_task(self._serve(client))
                self._served[task] = None
                task.add_done_callback(functools.partial(self._ended, client))

    def _ended(self, client: socket.socket, task: "asyncio.Task[None]") -> None:
        del self._served[task]
        client.close()  # a task that is cancelled before its first step closes nothing

    async def _serve(self, client: socket.socket) -> None:
        try:
            server = None if self._up.swallowing else await self._connected()
        except (OSError, asyncio.CancelledError):
            reset(client)
            return
        up = Pump(client, server, self._up, self.limit_bytes)
        down = None if server is None else Pump(server, client, self._down, self.limit_bytes)
        link = self._served[_this_task()] = Link(client, server, up, down)
        await link.run()

    async def _connected(self) -> socket.socket:
        server = socket.socket()
        server.setblocking(False)
        try:
            await self._loop.sock_connect(server, (self.target_host, self.target_port))
        except BaseException:
            server.close()
            raise
        return server


def _this_task() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None
    return task


@contextlib.contextmanager
def fault_proxies() -> Iterator[Callable[[str], FaultProxy]]:
    """A function that puts a proxy in front of a URL's address; all proxies are closed at the end."""
    with contextlib.ExitStack() as stack:

        def in_front_of(url: str) -> FaultProxy:
            parts = urllib.parse.urlsplit(url)
            assert parts.hostname, f"no host in {url}"
            assert parts.port, f"no port in {url}"
            return stack.enter_context(FaultProxy(parts.hostname, parts.port))

        yield in_front_of
