"""The HAProxy configurations that we ship, in the real HAProxy before servers that keep what they are asked."""

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.conftest import need
from tests.harness.certificates import Authority
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

DEPLOYMENT = Path(__file__).parents[2] / "deployment"
PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Start = Callable[..., "Balancer"]


@attrs.define(eq=False)
class Backend:
    """Answers 200 to every request, and keeps the bytes; health checks are not kept."""

    port: int = 0
    asked: list[bytes] = attrs.field(factory=list, init=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head == PROXY_SIGNATURE[:4]:  # the signature of PROXY v2 begins like the end of a head
                    head += await reader.readuntil(b"\r\n\r\n")
                if b"GET /health " not in head:
                    self.asked.append(head)
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@attrs.define(eq=False)
class Balancer:
    port: int
    rest_port: int
    trust: ssl.SSLContext
    process: "subprocess.Popen[bytes]"

    async def ask(self, request: str, *, port: int = 0, source: str = "127.0.0.1", plain: bool = False) -> bytes:
        """The head of the answer; empty if there is none."""
        return await asyncio.to_thread(self._ask, request.replace("\n", "\r\n"), port or self.port, source, plain)

    def _ask(self, request: str, port: int, source: str, plain: bool) -> bytes:
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as sock,
            sock if plain else self.trust.wrap_socket(sock, server_hostname="localhost") as wire,
        ):
            wire.sendall(request.encode() + b"\r\n\r\n")
            while not answer.endswith(b"\r\n\r\n") and (part := wire.recv(4096)):
                answer += part
        return answer


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Backend]:
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    yield backend
    server.close()


@pytest.fixture
async def gateway() -> AsyncIterator[Backend]:
    async with served() as backend:
        yield backend


@pytest.fixture
async def api() -> AsyncIterator[Backend]:
    async with served() as backend:
        yield backend


@pytest.fixture
def start(tmp_path: Path, gateway: Backend, api: Backend, authority: Authority) -> Iterator[Start]:
    """A function that starts HAProxy with one of the files, with other places in it, and numbers if wanted."""
    need(shutil.which("haproxy"), "no haproxy found: install the package haproxy")
    files = authority.issue("localhost")
    pem = tmp_path / "haproxy.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, *changes: tuple[str, str]) -> Balancer:
        ports = free_port(), free_port()
        text = (DEPLOYMENT / name).read_text()
        for old, new in (
            ("bind :8443", f"bind 127.0.0.1:{ports[0]}"),
            ("bind :9443", f"bind 127.0.0.1:{ports[1]}"),
            ("/run/secrets/haproxy.pem", str(pem)),
            ("maxconn 50000", "maxconn 100"),
            *changes,
        ):
            text = text.replace(old, new)
        text = re.sub(r"server-template gateway- 10 gateway:8080", f"server gateway 127.0.0.1:{gateway.port}", text)
        text = re.sub(r"server-template api- 4 api:9091", f"server api 127.0.0.1:{api.port}", text)
        text = text.replace(" resolvers docker init-addr libc,none", "").replace("check port 8081", "")
        text = re.sub(r"\bcheck inter 2s fall 2 rise 1|\binter 2s fall 2 rise 1", "", text)
        config = tmp_path / name
        config.write_text(text)
        process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=subprocess.DEVNULL)
        started.append(process)
        return Balancer(*ports, authority.trust(), process)

    yield begin
    for process in started:
        process.kill()
        process.wait()


async def up(balancer: Balancer) -> Balancer:
    def listens() -> bool:
        assert balancer.process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", balancer.port), 1):
            return True
        return False

    await eventually(listens, "a HAProxy that listens")
    return balancer


@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy-proxy-protocol.cfg"])
def test_haproxy_accepts_the_configuration_as_it_is(tmp_path, authority, name):
    need(shutil.which("haproxy"), "no haproxy found: install the package haproxy")
    files = authority.issue("localhost")
    pem = tmp_path / "haproxy.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    config = tmp_path / name
    config.write_text((DEPLOYMENT / name).read_text().replace("/run/secrets/haproxy.pem", str(pem)))
    checked = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    unknown = "could not resolve address"  # the names of the compose file
    assert [line for line in checked.stderr.splitlines() if "WARNING" in line and unknown not in line] == []


async def test_tls_ends_here_and_the_clients_address_is_told_and_cannot_be_made_up(start, gateway, api):
    balancer = await up(start("haproxy.cfg"))
    forged = "Host: localhost\nX-Forwarded-For: 10.9.9.9\nX-Forwarded-Proto: http\nForwarded: for=10.9.9.9"
    answer = await balancer.ask(f"GET /api/rooms HTTP/1.1\n{forged}", source="127.0.0.7")
    assert b" 200 " in answer
    assert b"strict-transport-security: max-age=31536000" in answer.lower()
    assert b" 200 " in await balancer.ask(f"GET /ws HTTP/1.1\n{forged}", source="127.0.0.8")
    assert b" 200 " in await balancer.ask(f"GET /chat/5 HTTP/1.1\n{forged}", source="127.0.0.8")
    for head, source in ((api.asked[0], b"127.0.0.7"), (gateway.asked[0], b"127.0.0.8")):
        lines = head.lower().split(b"\r\n")
        assert [line for line in lines if line.startswith((b"x-forwarded", b"forwarded"))] == [
            b"x-forwarded-for: " + source,
            b"x-forwarded-proto: https",
        ]
    assert (len(api.asked), len(gateway.asked)) == (1, 2)
    assert b" 404 " in await balancer.ask("GET /metrics HTTP/1.1\nHost: localhost")
    assert len(api.asked) == 1


async def test_an_old_version_of_tls_is_refused_and_so_is_none(start):
    balancer = await up(start("haproxy.cfg"))
    old = balancer.trust
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert await balancer.ask("GET / HTTP/1.1\nHost: localhost") == b""
    assert b" 200 " not in await balancer.ask("GET / HTTP/1.1\nHost: localhost", plain=True)


async def test_an_address_that_opens_too_much_is_refused_and_others_are_not(start):
    balancer = await up(start("haproxy.cfg", ("sc0_conn_cur gt 1000", "sc0_conn_cur gt 3")))

    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", balancer.port), 10, ("127.0.0.7", 0)))
        assert await balancer.ask("GET / HTTP/1.1\nHost: localhost", source="127.0.0.7") == b""
        assert b" 200 " in await balancer.ask("GET / HTTP/1.1\nHost: localhost", source="127.0.0.8")


async def test_an_address_that_asks_too_often_is_told_so(start):
    balancer = await up(start("haproxy.cfg", ("sc0_http_req_rate gt 20000", "sc0_http_req_rate gt 2")))
    answers = [await balancer.ask("GET / HTTP/1.1\nHost: localhost") for _ in range(3)]
    assert [answer.split()[1] for answer in answers] == [b"200", b"200", b"429"]


async def test_a_head_that_does_not_end_is_closed_in_time(start):
    balancer = await up(start("haproxy.cfg", ("timeout http-request 10s", "timeout http-request 200ms")))
    request = b"GET / HTTP/1.1\r\nHost:"

    def half() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", balancer.port), 10) as sock,
            balancer.trust.wrap_socket(sock, server_hostname="localhost") as wire,
        ):
            wire.sendall(request)
            return wire.recv(4096)

    assert b" 408 " in await asyncio.to_thread(half)


async def test_the_proxy_protocol_tells_the_clients_address(start, gateway, api):
    balancer = await up(start("haproxy-proxy-protocol.cfg"))
    for port, backend in ((balancer.port, gateway), (balancer.rest_port, api)):
        assert b" 200 " in await balancer.ask("GET /x HTTP/1.1\nHost: localhost", port=port, source="127.0.0.7")
        await eventually(lambda backend=backend: len(backend.asked) == 1, "a request")
        header = backend.asked[0]
        assert header.startswith(PROXY_SIGNATURE + b"\x21\x11")
        assert header[16:20] == bytes([127, 0, 0, 7])
