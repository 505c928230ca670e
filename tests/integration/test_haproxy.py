"""The HAProxy configurations that we ship, in the real HAProxy before servers that keep what they are asked."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.conftest import need
from tests.harness import haproxy
from tests.harness.certificates import Authority
from tests.harness.haproxy import DEPLOYMENT, Balancer, balancer, bundle
from tests.harness.waiting import eventually

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
    """A function that starts HAProxy with one of our files."""
    need(haproxy.missing() is None, haproxy.missing() or "")
    with contextlib.ExitStack() as stack:
        yield lambda name, *changes: stack.enter_context(
            balancer(tmp_path, authority, name, *changes, gateway=gateway.port, api=api.port)
        )


async def up(started: Balancer) -> Balancer:
    await started.ready()
    return started


@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy-proxy-protocol.cfg"])
def test_haproxy_accepts_the_configuration_as_it_is(tmp_path, authority, name):
    need(haproxy.missing() is None, haproxy.missing() or "")
    config = tmp_path / name
    text = (DEPLOYMENT / name).read_text()
    config.write_text(text.replace("/run/secrets/haproxy.pem", str(bundle(tmp_path, authority))))
    checked = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    unknown = "could not resolve address"  # the names of the compose file
    assert [line for line in checked.stderr.splitlines() if "WARNING" in line and unknown not in line] == []


async def test_tls_ends_here_and_the_clients_address_is_told_and_cannot_be_made_up(start, gateway, api):
    proxy = await up(start("haproxy.cfg"))
    forged = "Host: localhost\nX-Forwarded-For: 10.9.9.9\nX-Forwarded-Proto: http\nForwarded: for=10.9.9.9"
    answer = await proxy.ask(f"GET /api/rooms HTTP/1.1\n{forged}", source="127.0.0.7")
    assert b" 200 " in answer
    assert b"strict-transport-security: max-age=31536000" in answer.lower()
    assert b" 200 " in await proxy.ask(f"GET /ws HTTP/1.1\n{forged}", source="127.0.0.8")
    assert b" 200 " in await proxy.ask(f"GET /chat/5 HTTP/1.1\n{forged}", source="127.0.0.8")
    for head, source in ((api.asked[0], b"127.0.0.7"), (gateway.asked[0], b"127.0.0.8")):
        lines = head.lower().split(b"\r\n")
        assert [line for line in lines if line.startswith((b"x-forwarded", b"forwarded"))] == [
            b"x-forwarded-for: " + source,
            b"x-forwarded-proto: https",
        ]
    assert (len(api.asked), len(gateway.asked)) == (1, 2)
    assert b" 404 " in await proxy.ask("GET /metrics HTTP/1.1\nHost: localhost")
    assert len(api.asked) == 1


async def test_an_old_version_of_tls_is_refused_and_so_is_none(start):
    proxy = await up(start("haproxy.cfg"))
    old = proxy.trust
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert await proxy.ask("GET / HTTP/1.1\nHost: localhost") == b""
    assert b" 200 " not in await proxy.ask("GET / HTTP/1.1\nHost: localhost", plain=True)


async def test_an_address_that_opens_too_much_is_refused_and_others_are_not(start):
    proxy = await up(start("haproxy.cfg", ("sc0_conn_cur gt 1000", "sc0_conn_cur gt 3")))

    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 10, ("127.0.0.7", 0)))
        async with asyncio.timeout(20):
            while await proxy.ask("GET / HTTP/1.1\nHost: localhost", source="127.0.0.7"):
                pass  # its threads have not taken all three yet
        assert b" 200 " in await proxy.ask("GET / HTTP/1.1\nHost: localhost", source="127.0.0.8")


async def test_an_address_that_asks_too_often_is_told_so(start):
    proxy = await up(start("haproxy.cfg", ("sc0_http_req_rate gt 20000", "sc0_http_req_rate gt 2")))
    answers = [await proxy.ask("GET / HTTP/1.1\nHost: localhost") for _ in range(3)]
    assert [answer.split()[1] for answer in answers] == [b"200", b"200", b"429"]


async def test_a_head_that_does_not_end_is_closed_in_time(start):
    proxy = await up(start("haproxy.cfg", ("timeout http-request 10s", "timeout http-request 200ms")))
    request = b"GET / HTTP/1.1\r\nHost:"

    def half() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", proxy.port), 10) as sock,
            proxy.trust.wrap_socket(sock, server_hostname="localhost") as wire,
        ):
            wire.sendall(request)
            return wire.recv(4096)

    assert b" 408 " in await asyncio.to_thread(half)


async def test_the_proxy_protocol_tells_the_clients_address(start, gateway, api):
    proxy = await up(start("haproxy-proxy-protocol.cfg"))
    for port, backend in ((proxy.port, gateway), (proxy.rest_port, api)):
        assert b" 200 " in await proxy.ask("GET /x HTTP/1.1\nHost: localhost", port=port, source="127.0.0.7")
        await eventually(lambda backend=backend: len(backend.asked) == 1, "a request")
        header = backend.asked[0]
        assert header.startswith(PROXY_SIGNATURE + b"\x21\x11")
        assert header[16:20] == bytes([127, 0, 0, 7])
