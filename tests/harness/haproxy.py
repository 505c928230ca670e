"""HAProxy with one of the configurations that we ship, in front of servers of a test."""

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.harness.certificates import Authority
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

DEPLOYMENT = Path(__file__).parents[2] / "deployment"


@attrs.define(eq=False)
class Balancer:
    port: int
    rest_port: int
    trust: ssl.SSLContext
    process: "subprocess.Popen[bytes]"

    async def ready(self) -> None:
        await eventually(self._listens, "a HAProxy that listens")

    async def ask(self, request: str, *, port: int = 0, source: str = "127.0.0.1", plain: bool = False) -> bytes:
        """The head of the answer; empty if there is none."""
        return await asyncio.to_thread(self._ask, request.replace("\n", "\r\n"), port or self.port, source, plain)

    def _ask(self, request: str, port: int, source: str, plain: bool) -> bytes:
        answer, sock = b"", socket.socket()
        # Wrapped before it is connected: Python leaves one open that is reset while it is wrapped.
        with (
            contextlib.suppress(OSError),
            sock if plain else self.trust.wrap_socket(sock, server_hostname="localhost") as wire,
        ):
            wire.settimeout(10)
            wire.bind((source, 0))
            wire.connect(("127.0.0.1", port))
            wire.sendall(request.encode() + b"\r\n\r\n")
            while not answer.endswith(b"\r\n\r\n") and (part := wire.recv(4096)):
                answer += part
        return answer

    def _listens(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def missing() -> str | None:
    return None if shutil.which("haproxy") else "no haproxy found: install the package haproxy"


def bundle(directory: Path, authority: Authority) -> Path:
    """A certificate for localhost and its key in one file."""
    files = authority.issue("localhost")
    pem = directory / "haproxy.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return pem


@contextlib.contextmanager
def balancer(
    directory: Path, authority: Authority, name: str, *changes: tuple[str, str], gateway: int, api: int
) -> Iterator[Balancer]:
    """HAProxy by one of our files, with other places in it, and with other numbers if wanted."""
    ports = free_port(), free_port()
    text = (DEPLOYMENT / name).read_text()
    for old, new in (
        ("bind :8443", f"bind 127.0.0.1:{ports[0]}"),
        ("bind :9443", f"bind 127.0.0.1:{ports[1]}"),
        ("/run/secrets/haproxy.pem", str(bundle(directory, authority))),
        ("maxconn 50000", "maxconn 100"),
        *changes,
    ):
        text = text.replace(old, new)
    text = re.sub(r"server-template gateway- 10 gateway:8080", f"server gateway 127.0.0.1:{gateway}", text)
    text = re.sub(r"server-template api- 4 api:9091", f"server api 127.0.0.1:{api}", text)
    text = re.sub(r" (check port 8081 |check )?inter 2s fall 2 rise 1 resolvers docker init-addr libc,none", "", text)
    config = directory / name
    config.write_text(text)
    process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=subprocess.DEVNULL)
    try:
        yield Balancer(*ports, authority.trust(), process)
    finally:
        process.kill()
        process.wait()
