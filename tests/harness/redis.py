import attrs

from tests.harness.certificates import Files
from tests.harness.ports import LOOPBACK, answers, free_port
from tests.harness.programs import ServerFailed, absent
from tests.harness.server import Server


@attrs.define(eq=False)
class RedisServer(Server):
    """A Redis without persistence, as a cache is: what it held is gone after a restart."""

    limit_bytes: int = attrs.field(default=64 * 2**20, kw_only=True)
    files: Files | None = attrs.field(default=None, kw_only=True)
    """Of another port, with TLS."""
    tls_port: int = attrs.field(factory=free_port, init=False)

    @staticmethod
    def missing() -> str | None:
        return "no redis-server found: install the package redis-server" if absent("redis-server") else None

    def url(self, database: int = 0) -> str:
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def flush(self) -> None:
        """Forget everything."""
        if not answers(self.port, b"FLUSHALL\r\n", b"+OK"):
            raise ServerFailed("Redis did not flush")

    def _command(self) -> list[str]:
        numbers = ["--port", str(self.port), "--maxmemory", str(self.limit_bytes)]
        policy = ["--bind", LOOPBACK, "--save", "", "--appendonly", "no", "--maxmemory-policy", "allkeys-lru"]
        if (files := self.files) is not None:
            numbers += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            numbers += ["--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)]
            numbers += ["--tls-ca-cert-file", str(files.certificate)]
        return ["redis-server", *numbers, *policy, "--dir", str(self.directory), "--daemonize", "no"]

    def _answers(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG")
