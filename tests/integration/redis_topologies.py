"""A Sentinel with its master and replica, and a cluster of three masters, on the tests' own machine."""

import asyncio
import socket
import ssl
import time
from pathlib import Path

import attrs
import redis.asyncio

from tests.harness import RedisServer
from tests.harness.ports import LOOPBACK, answers, free_port
from tests.harness.programs import PATH, run
from tests.harness.server import Guard, Server

MASTER_NAME = "chatflow-master"
SLOTS = 16_384
PATIENCE_S = 30.0


@attrs.define(eq=False)
class ReplicaServer(RedisServer):
    """Copies ``source`` until it is promoted."""

    source: RedisServer = attrs.field(kw_only=True)

    def _command(self) -> list[str]:
        return [*RedisServer._command(self), "--replicaof", LOOPBACK, str(self.source.port)]


@attrs.define(eq=False)
class SentinelServer(Server):
    """Watches ``master``, alone; promotes the replica about a second after the master has gone."""

    master: RedisServer = attrs.field(kw_only=True)

    def _prepare(self) -> None:
        lines = [
            f"port {self.port}",
            f"bind {LOOPBACK}",
            f"dir {self.directory}",
            f"sentinel monitor {MASTER_NAME} {LOOPBACK} {self.master.port} 1",
            f"sentinel down-after-milliseconds {MASTER_NAME} 600",
            f"sentinel failover-timeout {MASTER_NAME} 5000",
        ]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return ["redis-server", str(self.directory / "sentinel.conf"), "--sentinel"]

    def _answers(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG")


@attrs.define(eq=False)
class TlsServer(RedisServer):
    """Speaks TLS only, as ``localhost`` by a certificate of its own (``certificate``), and asks for a password."""

    PASSWORD = "pass@word"

    @property
    def certificate(self) -> Path:
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        return self.directory / "tls.key"

    def _prepare(self) -> None:
        options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        run(
            ["openssl", "req", *options.split(), "-keyout", str(self.key), "-out", str(self.certificate)],
            {"PATH": PATH},
        )

    def _command(self) -> list[str]:
        files = ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)]
        tls = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", *files]
        return [
            *RedisServer._command(self),
            *tls,
            "--tls-ca-cert-file",
            str(self.certificate),
            "--requirepass",
            self.PASSWORD,
        ]

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.certificate))
        try:
            with socket.create_connection((LOOPBACK, self.port), 1) as plain:
                context.wrap_socket(plain, server_hostname="localhost").close()
        except OSError:
            return False
        return True


@attrs.define(eq=False)
class ClusterNode(RedisServer):
    """A member once `join_cluster` has made it one."""

    bus_port: int = attrs.field(factory=free_port, init=False)

    def _command(self) -> list[str]:
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port), "--cluster-node-timeout", "1000"]
        return [*RedisServer._command(self), *cluster]


async def join_cluster(nodes: list[ClusterNode]) -> None:
    """Divide the slots among the nodes; return when each of them agrees."""
    share = -(-SLOTS // len(nodes))
    for number, node in enumerate(nodes):
        async with client(node) as raw:
            first, last = number * share, min((number + 1) * share, SLOTS) - 1
            await raw.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            await raw.execute_command("CLUSTER", "MEET", LOOPBACK, nodes[0].port, nodes[0].bus_port)
    await whole(nodes)


async def whole(nodes: list[ClusterNode]) -> None:
    """Wait until every node sees every slot served."""
    deadline = time.monotonic() + PATIENCE_S
    for node in nodes:
        while True:
            async with client(node) as raw:
                info = str(await raw.execute_command("CLUSTER", "INFO"))
                known = str(await raw.execute_command("CLUSTER", "NODES"))
            if "cluster_state:ok" in info and known.count("connected") >= len(nodes):
                break
            assert time.monotonic() < deadline, f"the cluster does not form: {info} {known}"
            await asyncio.sleep(0.05)


def client(server: Server) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(host=LOOPBACK, port=server.port)


def started(server: Server) -> Server:
    server.start()
    server.ready()
    return server


def three_nodes(guard: Guard) -> list[ClusterNode]:
    nodes = [ClusterNode(guard) for _ in range(3)]
    for node in nodes:
        started(node)
    return nodes
