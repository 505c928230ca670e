"""Strangers at the ports: pages of other sites, names made to point here, proxies that lie, and who says nothing."""

import asyncio
import contextlib
import resource
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api_harness import open_api
from tests.harness.process import UpProcess
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import RawPeer, open_gateway, upgrade

PROXY = "127.0.0.9"
"""On the loopback, where Linux lets a client be any of 127.0.0.0/8."""

DEADLINE_S = 20.0


@contextlib.contextmanager
def few_descriptors(soft: int) -> Iterator[None]:
    """What is started inside may open no more, unless it raises its limit itself."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture(scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UpProcess]:
    """As everybody starts it."""
    process = UpProcess(tmp_path_factory.mktemp("up"))
    with few_descriptors(1024):
        process.start()
    try:
        await process.ready()
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
async def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UpProcess]:
    """Behind a proxy that names its clients in headers; little patience, little room."""
    settings = {
        "CHATFLOW_TRUSTED_PROXIES": PROXY,
        "CHATFLOW_ALLOWED_ORIGINS": "https://chat.example",
        "CHATFLOW_HEAD_TIMEOUT_S": "0.5",
        "CHATFLOW_KEEPALIVE_S": "1",
        "CHATFLOW_HTTP_CONNECTIONS_MAX": "20",
        "CHATFLOW_HANDSHAKES_MAX": "20",
    }
    process = UpProcess(tmp_path_factory.mktemp("behind"), settings)
    process.start()
    try:
        await process.ready()
        yield process
    finally:
        process.kill()


@contextlib.asynccontextmanager
async def connected(
    port: int, source: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    local = None if source is None else (source, 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(port: int, data: bytes, source: str | None = None) -> bytes:
    """What comes back until the end, or until a WebSocket is open."""
    answer = b""
    async with connected(port, source) as (reader, writer), asyncio.timeout(DEADLINE_S):
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(2**16):
                answer += part
                if answer.startswith(b"HTTP/1.1 101 "):
                    break
    return answer


def get(path: str, host: str | None = "127.0.0.1", *lines: str) -> bytes:
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([f"GET {path} HTTP/1.1", *hosts, *lines, "Connection: close", "", ""]).encode()


def handshake(*lines: str, path: str = "/ws", host: str = "127.0.0.1") -> bytes:
    added = "".join(f"{line}\r\n" for line in lines).encode()
    return upgrade(path).replace(b"Host: localhost\r\n", f"Host: {host}\r\n".encode() + added)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


ORIGINS = ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1:1", "http://127.0.0.1.evil.example"]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", ["/ws", "/chat/5", "/feed/5"])
async def test_a_page_of_another_site_cannot_open_a_socket_on_its_readers_machine(up, path, origin):
    answer = await ask(up.gateway_port, handshake(f"Origin: {origin}", path=path))
    assert status(answer) == 403
    assert b"CHATFLOW_ALLOWED_ORIGINS" in answer


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_page_of_another_site_cannot_read_over_rest(up, origin):
    for path in ("/api/messages/room?roomId=1", "/api/health", "/metrics"):
        answer = await ask(up.api_port, get(path, "127.0.0.1", f"Origin: {origin}"))
        assert status(answer) == 403
        assert b"access-control-allow-origin" not in answer.lower()
    quiet = await ask(
        up.api_port, get("/api/health", "127.0.0.1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
    )
    assert status(quiet) == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_a_name_that_was_made_to_point_here_gets_nothing_on_any_port(up, host):
    for number, path in (
        (up.gateway_port, "/ws"),
        (up.api_port, "/"),
        (up.api_port, "/config.json"),
        (up.api_port, "/api/health"),
        (up.ports[2], "/metrics"),
        (up.health_port, "/metrics"),
    ):
        request = handshake(f"Origin: http://{host}", host=host) if path == "/ws" else get(path, host)
        answer = await ask(number, request)
        assert status(answer) == 421, (path, answer)
        assert b"content-security-policy" not in answer.lower()
        assert b"evil" not in answer


async def test_own_pages_programs_on_this_machine_and_probes_come_in(up):
    page = f"Origin: http://localhost:{up.api_port}"
    assert status(await ask(up.gateway_port, handshake(page))) == 101
    assert status(await ask(up.gateway_port, handshake(page, host="localhost"))) == 101
    for path in ("/ws", "/chat/5", "/feed/5"):
        assert status(await ask(up.gateway_port, handshake(path=path))) == 101
    for host in ("127.0.0.1", "[::1]:1", "10.1.2.3", "localhost", "app.localhost:80"):
        assert status(await ask(up.api_port, get("/", host))) == 200
    for number in up.ports[1:]:
        for request in (
            get("/health", "evil.example", "Origin: http://evil.example"),
            get("/health", None),
            b"GET /health HTTP/1.0\r\n\r\n",
        ):
            assert status(await ask(number, request)) == 200


async def test_what_was_answered_before_is_not_answered_to_who_may_not_ask(up):
    path = "/api/messages/room?roomId=remembered"
    async with connected(up.api_port) as (reader, writer):
        for _ in range(5):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(length)
        for line, refused in (("Host: evil.example", b"421"), ("Host: 127.0.0.1\r\nOrigin: null", b"403")):
            writer.write(f"GET {path} HTTP/1.1\r\n{line}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + refused)
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(length)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET /ws\r\n\r\n",
        b"GET /ws HTTP/3.0\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n",
        b"POST /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
async def test_a_handshake_that_is_none_is_told_so(up, data):
    assert status(await ask(up.gateway_port, data)) == 400


async def test_every_answer_says_what_browsers_may_not_do_with_it_and_not_who_we_are(up):
    requests = [(up.gateway_port, get("/")), (up.gateway_port, get("/ws")), (up.gateway_port, b"x y\r\n\r\n")]
    for number in up.ports[1:]:
        requests += [(number, get(path)) for path in ("/health", "/metrics", "/nothing")]
        requests += [(number, b"\x16\x03\x01\r\n\r\n"), (number, get("/metrics", "evil.example"))]
    paths = ("/", "/docs", "/config.json", "/openapi.json", "/api/health", "/api/messages/room?roomId=1", "/api/all")
    requests += [(up.api_port, get(path)) for path in paths]
    requests += [(up.api_port, get("/", "127.0.0.1", "If-None-Match: *")), (up.api_port, get("/api/users/rooms"))]
    for number, request in requests:
        head = (await ask(number, request)).partition(b"\r\n\r\n")[0].lower()
        assert b"x-content-type-options: nosniff" in head, (request, head)
        assert b"cache-control: " in head, (request, head)
        assert b"\r\nserver:" not in head, (request, head)


async def test_a_crowd_that_says_nothing_on_one_port_stops_no_other_and_not_even_that_one(up):
    async with contextlib.AsyncExitStack() as crowd:
        for _ in range(1_100):
            await crowd.enter_async_context(connected(up.api_port))
        assert status(await ask(up.api_port, get("/health"))) == 200
        assert status(await ask(up.gateway_port, handshake())) == 101
        for number in up.ports[2:]:
            assert status(await ask(number, get("/health"))) == 200


async def test_half_a_request_ends_in_time_on_every_port(behind_proxy):
    halves = (b"GET /hea", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"")
    ended = await asyncio.gather(*(ask(number, half) for number in behind_proxy.ports for half in halves))
    assert [status(answer) for answer in ended] == [408, 408, 0] * 4
    assert set(ended[2::3]) == {b""}


async def test_a_second_request_has_no_more_time_than_the_first_and_idleness_ends(behind_proxy):
    async def ends_after(rest: bytes) -> None:
        async with connected(behind_proxy.api_port) as (reader, writer), asyncio.timeout(DEADLINE_S):
            writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + rest)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await reader.read()

    await asyncio.gather(ends_after(b"GET /hea"), ends_after(b""))


async def test_a_full_port_has_room_for_who_asks(behind_proxy):
    for number in behind_proxy.ports:
        async with contextlib.AsyncExitStack() as crowd:
            for _ in range(60):
                await crowd.enter_async_context(connected(number))
            request = handshake() if number == behind_proxy.gateway_port else get("/health")
            assert status(await ask(number, request)) in {101, 200}


@pytest.mark.parametrize(
    ("source", "forwarded", "expected"),
    [
        (PROXY, ["X-Forwarded-For: 203.0.113.9"], 403),
        (PROXY, ["X-Forwarded-For: 127.0.0.1, 203.0.113.9"], 403),
        (PROXY, ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 203.0.113.9"], 403),
        (PROXY, [], 403),
        (PROXY, ["X-Forwarded-For: 203.0.113.9, 127.0.0.1"], 101),
        ("127.0.0.1", ["X-Forwarded-For: 127.0.0.1"], 403),
        ("127.0.0.1", [], 101),
        (PROXY, ["X-Forwarded-For: 203.0.113.9", "Origin: https://chat.example"], 101),
    ],
)
async def test_only_a_trusted_proxy_names_a_client_and_it_names_the_nearest(behind_proxy, source, forwarded, expected):
    assert status(await ask(behind_proxy.gateway_port, handshake(*forwarded), source)) == expected
    answer = await ask(behind_proxy.api_port, get("/api/health", "127.0.0.1", *forwarded), source)
    assert status(answer) == (200 if expected == 101 else expected)


async def test_behind_tls_the_page_is_sent_to_an_encrypted_socket_if_a_trusted_proxy_says_so(behind_proxy):
    lines = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"]
    answer = await ask(behind_proxy.api_port, get("/config.json", "chat.example", *lines), PROXY)
    assert b'"gatewayUrl":"wss://chat.example/ws"' in answer
    page = await ask(behind_proxy.api_port, get("/", "chat.example", *lines), PROXY)
    assert b"connect-src 'self' wss://chat.example;" in page
    lie = await ask(behind_proxy.api_port, get("/config.json", "chat.example", *lines))
    assert b'"gatewayUrl":"ws://chat.example:' in lie


async def test_an_allowed_site_may_read_and_may_ask_first(behind_proxy):
    origin = "Origin: https://chat.example"
    answer = await ask(behind_proxy.api_port, get("/api/health", "127.0.0.1", origin))
    assert status(answer) == 200
    assert b"\r\nAccess-Control-Allow-Origin: https://chat.example\r\n" in answer
    asks_first = get("/api/health", "127.0.0.1", origin, "Access-Control-Request-Method: GET")
    answer = await ask(behind_proxy.api_port, asks_first.replace(b"GET", b"OPTIONS", 1))
    assert (status(answer), b"Access-Control-Allow-Headers: Authorization" in answer) == (204, True)


def headers(address: str) -> tuple[bytes, bytes]:
    """Both versions of a PROXY header."""
    packed = bytes(map(int, address.split("."))) + bytes([127, 0, 0, 1]) + struct.pack("!HH", 1, 2)
    second = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(packed)) + packed
    return f"PROXY TCP4 {address} 127.0.0.1 1 2\r\n".encode(), second


async def test_a_proxy_header_is_read_from_a_trusted_proxy_and_from_nobody_else():
    from chatflow.adapters.aiohttp.door import PortLimits
    from chatflow.adapters.websockets.doorway import Doorway
    from chatflow.domain.admission.addresses import TrustedProxies
    from chatflow.domain.admission.rules import Admission

    admission = Admission(proxies=TrustedProxies.parse(PROXY))
    doorway = Doorway(admission, proxy_protocol=True)
    limits = PortLimits(proxy_protocol=True)
    async with (
        open_gateway(server={"doorway": doorway}) as gateway,
        open_api(admission=admission, port_limits=limits) as api,
    ):
        for number, request, good in ((gateway.port, handshake(), 101), (api.port, get("/api/health"), 200)):
            for address, expected in (("203.0.113.9", 403), ("127.0.0.1", good)):
                for header in headers(address):
                    assert status(await ask(number, header + request, PROXY)) == expected
            assert status(await ask(number, request, PROXY)) == 400
            assert status(await ask(number, headers("127.0.0.1")[0] + request)) == 400
            assert status(await ask(number, request)) == good


async def test_what_the_kernel_holds_for_a_client_that_does_not_read_is_bounded_and_counted():
    async with open_gateway(sweep=True, outbound_limit_bytes=2**24) as gateway:
        raw = await RawPeer.open(gateway.port, receive_buffer=4096)
        await raw.handshake("/feed/5")
        await eventually(lambda: gateway.context.hub.active_rooms)
        (served,) = gateway.server._open.connections
        served.socket.send([b"x" * 60_000] * 40)
        kernel = served.kernel_bytes()
        assert 0 < kernel < 2**20
        assert gateway.context.memory.total_bytes >= kernel + served.unsent_bytes() > 2**21
        raw.reset()
