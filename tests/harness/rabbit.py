import base64
import itertools
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import attrs

from tests.harness.certificates import Files
from tests.harness.ports import LOOPBACK, answers, free_port
from tests.harness.programs import ServerFailed, absent
from tests.harness.roots import Root
from tests.harness.server import POLL_S, Server

RABBITMQ_4 = Root("trixie", ("rabbitmq-server",))
NODE = "rabbit@localhost"
SHIPPED_CONFIG = Path(__file__).parents[2] / "deployment" / "rabbitmq-3-advanced.config"
USER = "guest"
PASSWORD = "guest"
WATERMARK = 0.4
ALARM_DEADLINE_S = 10.0
API_TIMEOUT_S = 30.0
# Debian's rabbitmq-server in PATH is a wrapper that changes the user and the environment; these are the scripts behind.
SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")


def script(name: str) -> str:
    """The path of one of RabbitMQ's programs, or its bare name."""
    return next((path for each in SCRIPTS if Path(path := f"{each}/{name}").exists()), name)


@attrs.frozen
class Queue:
    """A queue as the broker sees it; counts are up to ``stats_interval_s`` old."""

    name: str
    type: str
    durable: bool
    arguments: dict[str, Any]
    messages: int
    ready: int
    unacked: int


@attrs.define(eq=False)
class RabbitServer(Server):
    """A RabbitMQ node with its own epmd, cookie and management API.

    The API (25 ms a call) makes virtual hosts and lists queues; rabbitmqctl (0.5 s a call) does the rest.
    """

    schedulers: int = attrs.field(default=2, kw_only=True)
    stats_interval_s: float = attrs.field(default=0.5, kw_only=True)
    config: dict[str, str] = attrs.field(factory=dict, kw_only=True)
    certificate: Files | None = attrs.field(default=None, kw_only=True)
    """Of another port, with TLS."""
    tls_port: int = attrs.field(factory=free_port, init=False)
    api_port: int = attrs.field(factory=free_port, init=False)
    _epmd_port: int = attrs.field(factory=free_port, init=False)
    _dist_port: int = attrs.field(factory=free_port, init=False)
    _epmd: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _numbers: "itertools.count[int]" = attrs.field(factory=lambda: itertools.count(1), init=False)

    @staticmethod
    def missing() -> str | None:
        lacking = absent(script("rabbitmq-server"), script("rabbitmqctl"), "erl", "epmd")
        return f"no {', '.join(lacking)} found: install the package rabbitmq-server" if lacking else None

    def url(self, vhost: str = "/") -> str:
        return f"amqp://{USER}:{PASSWORD}@{LOOPBACK}:{self.port}/{urllib.parse.quote(vhost, safe='')}"

    def vhost(self) -> str:
        """Create an empty virtual host and return its name."""
        name = f"test-{next(self._numbers)}"
        self.api("PUT", f"vhosts/{name}")
        return name

    def delete_vhost(self, vhost: str) -> None:
        """Delete a virtual host with its queues, and close its connections."""
        self.api("DELETE", f"vhosts/{vhost}")

    def queues(self, vhost: str = "/") -> dict[str, Queue]:
        """The queues of ``vhost`` by name."""
        where = urllib.parse.quote(vhost, safe="")
        listed = self.api("GET", f"queues/{where}?disable_stats=true&enable_queue_totals=true")
        return {each["name"]: _queue(each) for each in listed}

    def settle(self) -> None:
        """Flush the names of quorum queues to disk, which the node does only some seconds after their declaration.

        A node that is killed before forgets them: it comes back with an empty queue of that name and no leader, even
        though messages were confirmed (rabbitmq-server issue 15725). Call it between the first declaration and `kill`.
        """
        self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()].")

    def memory_alarm(self, on: bool) -> None:
        """Block (`connection.blocked`) or unblock every publishing connection; returns once the alarm is on or off."""
        self.set_vm_memory_high_watermark(0.0 if on else WATERMARK)
        deadline = time.monotonic() + ALARM_DEADLINE_S
        while self.has_alarm() is not on:
            if time.monotonic() > deadline:
                raise ServerFailed(f"the memory alarm did not turn {'on' if on else 'off'}")
            time.sleep(POLL_S)

    def make_ready(self) -> None:
        super().make_ready()
        if self.has_alarm():
            self.memory_alarm(on=False)

    def has_alarm(self) -> bool:
        try:
            self.api("GET", "health/checks/alarms")
        except urllib.error.HTTPError as refusal:
            if refusal.code != 503:
                raise
            return True
        return False

    def set_vm_memory_high_watermark(self, fraction: float) -> None:
        """Set the limit as a part of the machine's memory; 0 blocks publishers at once. A restart resets it."""
        self.ctl("set_vm_memory_high_watermark", str(fraction))

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``, which takes half a second, and return what it printed."""
        return self._run([self._script("rabbitmqctl"), "--quiet", "--node", NODE, *arguments])

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API and return its answer.

        Raises:
            urllib.error.HTTPError: it refused.
            OSError: it did not answer.
        """
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.api_port}/api/{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=API_TIMEOUT_S) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    @property
    def log_path(self) -> Path:
        return self.directory / "log" / "rabbit.log"

    def _prepare(self) -> None:
        (self.directory / "log").mkdir()
        (self.directory / "plugins").write_text("[rabbitmq_management].\n")
        interval_ms = int(self.stats_interval_s * 1_000)
        settings = {
            "listeners.tcp.1": f"{LOOPBACK}:{self.port}",
            "management.tcp.ip": LOOPBACK,
            "management.tcp.port": str(self.api_port),
            "management_agent.disable_metrics_collector": "true",
            "collect_statistics_interval": str(interval_ms),
            "vm_memory_high_watermark.relative": str(WATERMARK),
            "log.console": "false",
        }
        if self.certificate is not None:
            settings |= {
                "listeners.ssl.1": f"{LOOPBACK}:{self.tls_port}",
                "ssl_options.certfile": str(self.certificate.certificate),
                "ssl_options.keyfile": str(self.certificate.key),
                "ssl_options.verify": "verify_none",
            }
        lines = (f"{name} = {value}\n" for name, value in (settings | self.config).items())
        (self.directory / "rabbitmq.conf").write_text("".join(lines))
        # What rabbitmq.conf cannot say: the settings we recommend, and a quicker tick.
        terms = [_shipped_terms(), f"{{rabbit, [{{quorum_tick_interval, {interval_ms}}}]}}"]
        (self.directory / "advanced.config").write_text(f"[{', '.join(terms)}].\n")

    def _environ(self) -> dict[str, str]:
        return super()._environ() | {
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_LOGS": str(self.log_path),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S {self.schedulers}:{self.schedulers}",
            # Makes the script exec the Erlang VM instead of waiting for it: one process, one pid.
            "detached": "true",
        }

    def _before_start(self) -> None:
        """Start an epmd in the foreground; otherwise the node would start a daemon that outlives it."""
        self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", LOOPBACK], subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not answers(self._epmd_port, b"\0\1n", b"\0"):  # NAMES_REQ
            if self._epmd.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed("epmd does not answer")
            time.sleep(POLL_S)

    def _after_end(self) -> None:
        if self._epmd is not None:
            self._reap(self._epmd)
            self._epmd = None

    def _command(self) -> list[str]:
        return [self._script("rabbitmq-server")]

    def _script(self, name: str) -> str:
        return f"{SCRIPTS[0]}/{name}" if self.root else script(name)

    def _answers(self) -> bool:
        # A node opens its listeners last.
        if not answers(self.port, b"AMQP\0\0\x09\x01", b"\x01"):
            return False
        try:
            self.api("GET", "vhosts")
        except OSError:
            return False
        return True


def _shipped_terms() -> str:
    """The terms of the configuration file that we ship, without the enclosing list."""
    lines = SHIPPED_CONFIG.read_text().splitlines()
    return "".join(line for line in lines if not line.startswith("%")).strip().removeprefix("[").removesuffix("].")


def _queue(listed: dict[str, Any]) -> Queue:
    return Queue(
        name=listed["name"],
        type=listed["type"],
        durable=listed["durable"],
        arguments=listed["arguments"],
        messages=listed.get("messages", 0),
        ready=listed.get("messages_ready", 0),
        unacked=listed.get("messages_unacknowledged", 0),
    )
