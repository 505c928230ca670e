"""The client programs in README.md and docs/protocol.md run as they stand, against a real server."""

import ast
import asyncio
import contextlib
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import orjson
import pytest
from playwright.async_api import Browser
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.e2e.browser_server import UpServer, running_server

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
TEXTS = ["hello", "anybody here?"]

Output = asyncio.Queue[str]


def example(path: str, language: str) -> str:
    """The one program of that language in a document."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)
    return found


def adapted(program: str, url: str, room: str) -> str:
    """The same program for another server and another room."""
    assert program.count('"ws://127.0.0.1:8080/ws"') == 1
    assert program.count('"room5"') == 1
    return program.replace('"ws://127.0.0.1:8080/ws"', f'"{url}"').replace('"room5"', f'"{room}"')


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[UpServer]:
    async with running_server() as server:
        yield server


@attrs.define
class Runtime:
    """What a documented program runs in."""

    name: str
    browser: Browser | None = None

    @property
    def program(self) -> str:
        return example("docs/protocol.md", "python" if self.name == "python" else "javascript")


@pytest.fixture(params=["python", "node"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Node may be missing: the browser runs the same program."""
    if request.param == "node" and not node_has_websockets():
        pytest.skip("no Node with a global WebSocket (22, or 20 on request)")
    return Runtime(request.param)


@functools.cache
def node_has_websockets() -> bool:
    command = [*NODE, "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
    return shutil.which("node") is not None and subprocess.run(command, check=False).returncode == 0


NODE = ["node", "--no-warnings", "--experimental-websocket", "--input-type=module", "--eval"]


@contextlib.asynccontextmanager
async def running(*command: str) -> AsyncIterator[Output]:
    """A program that goes on for ever, and the lines that it prints."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output: Output = asyncio.Queue()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            output.put_nowait(line.decode().strip())

    reading = asyncio.create_task(read())
    try:
        yield output
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await reading
        await process.wait()


@contextlib.asynccontextmanager
async def in_browser(browser: Browser, server: UpServer, program: str) -> AsyncIterator[Output]:
    page = await browser.new_page(bypass_csp=True)  # the relay is no address that our own pages talk to
    output: Output = asyncio.Queue()
    page.on("console", lambda message: output.put_nowait(message.text))
    page.on("pageerror", lambda error: output.put_nowait(str(error)))
    try:
        await page.goto(f"{server.url}/docs")
        await page.evaluate(f"() => {{ {program} }}")
        yield output
    finally:
        await page.close()


def client(runtime: Runtime, server: UpServer, url: str, room: str) -> AbstractAsyncContextManager[Output]:
    """The documented client of a runtime, chatting."""
    program = adapted(runtime.program, url, room)
    if runtime.browser is not None:
        return in_browser(runtime.browser, server, program)
    return running(*(NODE if runtime.name == "node" else (sys.executable, "-c")), program)


async def lines(output: Output, count: int) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        return [await output.get() for _ in range(count)]


@contextlib.asynccontextmanager
async def forgetful_gateway(server: UpServer) -> AsyncIterator[str]:
    """In front of the gateway: takes what the first connection sends, loses every answer, and cuts it."""
    first = True

    async def handle(peer: ServerConnection) -> None:
        nonlocal first
        loses, first = first, False
        async with connect(server.gateway_url) as gateway:
            if loses:
                for _ in range(2 + len(TEXTS)):
                    await gateway.send(await peer.recv())
                await acks(gateway, len(TEXTS))
                await peer.close(1012)
                return
            with contextlib.suppress(ConnectionClosed):
                async with asyncio.TaskGroup() as both:
                    both.create_task(pump(peer, gateway))
                    both.create_task(pump(gateway, peer))

    async with serve(handle, "127.0.0.1", 0) as relay:
        yield f"ws://127.0.0.1:{relay.sockets[0].getsockname()[1]}/ws"


async def pump(source, target) -> None:
    async for frame in source:
        await target.send(frame)
    await target.close()


async def acks(gateway, count: int) -> None:
    while count:
        frame = orjson.loads(await gateway.recv())
        count -= sum(item["op"] == "ack" for item in (frame if isinstance(frame, list) else [frame]))


async def verify_chats(server: UpServer, runtime: Runtime) -> None:
    room = f"chat-{runtime.name}"
    who = "ada" if runtime.name == "python" else "grace"
    async with client(runtime, server, server.gateway_url, room) as output:
        assert await lines(output, 2) == [f"1 {who} {TEXTS[0]}", f"2 {who} {TEXTS[1]}"]
    assert [row["message"] for row in await server.stored(room)] == TEXTS


async def verify_repeats(server: UpServer, runtime: Runtime) -> None:
    room = f"again-{runtime.name}"
    async with forgetful_gateway(server) as url, client(runtime, server, url, room) as output:
        await lines(output, 2)
        await server.say(room, ["afterwards"])
        assert await lines(output, 1) == ["3 seeder afterwards"]
    assert [row["message"] for row in await server.stored(room)] == [*TEXTS, "afterwards"]


async def test_the_documented_client_chats(server: UpServer, runtime: Runtime) -> None:
    await verify_chats(server, runtime)


async def test_the_documented_client_repeats_what_has_no_ack(server: UpServer, runtime: Runtime) -> None:
    await verify_repeats(server, runtime)


@pytest.mark.browser
async def test_the_documented_client_chats_in_a_browser(server: UpServer, browser: Browser) -> None:
    await verify_chats(server, Runtime("browser", browser))


@pytest.mark.browser
async def test_the_documented_client_repeats_in_a_browser_what_has_no_ack(server: UpServer, browser: Browser) -> None:
    await verify_repeats(server, Runtime("browser", browser))


async def test_the_fifteen_lines_of_the_readme_show_a_message_and_its_ack(server: UpServer) -> None:
    program = adapted(example("README.md", "python"), server.gateway_url, "readme")
    async with running(sys.executable, "-u", "-c", program) as output:
        items = [ast.literal_eval(line) for line in await lines(output, 4)]
    assert [item["op"] for item in items[:2]] == ["welcome", "joined"]
    assert {item["op"]: item["seq"] for item in items[2:]} == {"message": 1, "ack": 1}
