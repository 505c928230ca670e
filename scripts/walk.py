"""Count the modules that one read and one message pass through: ``make walk``.

It runs ``chatflow up`` in this process, in memory and on a fresh SQLite file, warms both paths up, and records which
modules of the package run code while one request is answered (a cache miss: from the URL to SQLite and back to
bytes), and while one message travels (from the sender's socket to its row, and from there to the listener's socket).

A module counts if it runs every time; reports and heartbeats, which run now and then, do not. Nor do modules that
contribute nothing but the generated ``__init__`` of a value.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

import aiohttp

import chatflow
from chatflow.adapters.sql import migrate
from chatflow.entrypoints.data_directory import make_directory
from chatflow.entrypoints.roles.api import ApiRole
from chatflow.entrypoints.roles.gateway import GatewayRole
from chatflow.entrypoints.serving import Role, serve_roles
from chatflow.entrypoints.settings import Settings, load_settings

ROOMS = 12
PAUSE_S = 0.2
"""After which nothing of the round before is under way."""
READ_AT_MOST, MESSAGE_AT_MOST = 26, 37
PACKAGE = Path(chatflow.__file__).parent


class Tracer:
    """The modules whose code runs while it is on, in the order in which they are first entered, in any thread."""

    def __init__(self) -> None:
        self.modules: dict[str, None] | None = None

    def install(self) -> None:
        """From now on, in this thread and in those that start later."""
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and self.modules is not None:
            self.modules.setdefault(frame.f_code.co_filename)

    def start(self) -> None:
        """Record."""
        self.modules = {}

    def stop(self) -> list[str]:
        """What was recorded, as dotted names."""
        seen, self.modules = self.modules or {}, None
        paths = [Path(name) for name in seen if name.startswith(f"{PACKAGE}{os.sep}")]
        return [".".join(("chatflow", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in paths]


async def walk(tracer: Tracer, roles: Mapping[str, Role]) -> tuple[list[str], list[str]]:
    """Both walks."""
    api, gateway = cast("ApiRole", roles["api"]), cast("GatewayRole", roles["gateway"])
    async with aiohttp.ClientSession() as http:
        listener = await _joined(http, gateway.port, "listener")
        sender = await _joined(http, gateway.port, "sender")
        messages, reads = [], []
        for number in range(ROOMS):  # a process knows its rooms' names, but not yet their messages
            await _get(http, f"{_page(api.port, number)}&start=2026-01-01")
        for number in range(2 * ROOMS):  # the first of each room warms up
            await asyncio.sleep(PAUSE_S)
            tracer.start()
            await sender.send_json({"op": "send", "ref": number, "room": f"room{number % ROOMS}", "text": "hello"})
            await asyncio.gather(_until(sender, "ack"), _until(listener, "message"))
            messages.append(tracer.stop())
        for number in range(ROOMS):
            await asyncio.sleep(PAUSE_S)
            tracer.start()
            tier = await _get(http, _page(api.port, number))
            reads.append(tracer.stop())
            if tier != "miss":
                raise RuntimeError(f"a read that was to miss was answered by {tier}")
    return _in_each(reads[ROOMS // 2 :]), _in_each(messages[ROOMS:])


def _page(port: int, room: int) -> str:
    return f"http://127.0.0.1:{port}/api/messages/room?roomId={room}&limit=10"


async def _get(http: aiohttp.ClientSession, url: str) -> str:
    """The tier that answered."""
    async with http.get(url) as response:
        await response.read()
        return response.headers["X-Cache"]


async def _joined(http: aiohttp.ClientSession, port: int, name: str) -> aiohttp.ClientWebSocketResponse:
    socket = await http.ws_connect(f"ws://127.0.0.1:{port}/ws")
    await socket.send_json({"op": "hello", "userId": 1, "username": name})
    for number in range(ROOMS):
        await socket.send_json({"op": "join", "ref": number, "room": f"room{number}"})
        await _until(socket, "joined")
    return socket


async def _until(socket: aiohttp.ClientWebSocketResponse, op: str) -> None:
    async with asyncio.timeout(10):
        while True:
            told = await socket.receive_json()
            if any(frame["op"] == op for frame in (told if isinstance(told, list) else [told])):
                return


def _in_each(walks: list[list[str]]) -> list[str]:
    return [module for module in walks[-1] if all(module in each for each in walks)]


async def trace(settings: Settings) -> tuple[list[str], list[str]]:
    """Both walks through a process that is started, and stopped at the end."""
    tracer, started, roles = Tracer(), asyncio.Event(), dict[str, Role]()
    tracer.install()
    make_directory(settings.common.data_dir)
    migrate.upgrade(settings.common.database_url)

    def greet(running: Mapping[str, Role]) -> None:
        roles.update(running)
        started.set()

    serving = asyncio.ensure_future(serve_roles(settings, ("processor", "api", "gateway"), greet=greet))
    await asyncio.wait([serving, waiting := asyncio.ensure_future(started.wait())], return_when="FIRST_COMPLETED")
    try:
        return await walk(tracer, roles)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        waiting.cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


def main() -> int:
    """Print both; 1 if one enters more modules than it may."""
    with tempfile.TemporaryDirectory(prefix="chatflow-walk-") as directory:
        ports = {f"CHATFLOW_{name}_PORT": "0" for name in ("GATEWAY", "API", "GATEWAY_HEALTH", "PROCESSOR_HEALTH")}
        environ = {"CHATFLOW_DATA_DIR": directory, "CHATFLOW_LOG_LEVEL": "warning", **ports}
        read, message = asyncio.run(trace(load_settings("up", environ, dotenv=None)))
    _print("From URL to row to bytes (a miss)", read, READ_AT_MOST)
    _print("From socket to row to socket", message, MESSAGE_AT_MOST)
    return int(len(read) > READ_AT_MOST or len(message) > MESSAGE_AT_MOST)


def _print(title: str, modules: list[str], at_most: int) -> None:
    print(f"{title}: {len(modules)} modules, at most {at_most}")
    for number, module in enumerate(modules, 1):
        print(f"{number:3} {module}")


if __name__ == "__main__":
    sys.exit(main())
