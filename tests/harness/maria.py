import getpass
import itertools
from typing import ClassVar

import attrs

from tests.harness.certificates import Files
from tests.harness.ports import LOOPBACK, answers
from tests.harness.programs import absent, run
from tests.harness.roots import Root
from tests.harness.server import Server

MARIADB_11 = Root("trixie", ("mariadb-server-core", "mariadb-client-core"))
USER = "chatflow"
PASSWORD = "chatflow"
STATEMENTS_S = 60.0


@attrs.define(eq=False)
class MariaServer(Server):
    """A MariaDB as durable as in production: each commit is flushed, so a SIGKILL loses nothing that was committed.

    Clients are the user ``chatflow``, who owns every database made by `database` and obeys ``read_only``; `execute`
    speaks as root.
    """

    MAY_ALWAYS_WRITE: ClassVar[str] = "READ_ONLY ADMIN"
    buffer_pool_bytes: int = attrs.field(default=128 * 2**20, kw_only=True)
    log_file_bytes: int = attrs.field(default=96 * 2**20, kw_only=True)
    max_connections: int = attrs.field(default=500, kw_only=True)
    options: list[str] = attrs.field(factory=list, kw_only=True)
    certificate: Files | None = attrs.field(default=None, kw_only=True)
    """For clients that want TLS."""
    _numbers: "itertools.count[int]" = attrs.field(factory=lambda: itertools.count(1), init=False)

    @staticmethod
    def missing() -> str | None:
        lacking = absent("mariadbd", "mariadb-install-db", "mariadb")
        return f"no {', '.join(lacking)} found: install the package mariadb-server" if lacking else None

    def url(self, database: str = "") -> str:
        return f"mysql+asyncmy://{USER}:{PASSWORD}@{LOOPBACK}:{self.port}/{database}"

    def database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {database}")

    def read_only(self, on: bool) -> None:
        """Refuse (error 1290) or allow clients' writes, as a replica does before its promotion."""
        self.execute(f"SET GLOBAL read_only = {int(on)}")

    def as_admin(self, url: str) -> str:
        """The same URL for a user ``admin``, who may write even when the server is read-only."""
        admin = f"admin@'{LOOPBACK}'"
        self.execute(
            f"DROP USER IF EXISTS {admin}; CREATE USER {admin} IDENTIFIED BY 'admin'; "
            f"GRANT ALL ON `test\\_%`.* TO {admin}; GRANT {self.MAY_ALWAYS_WRITE} ON *.* TO {admin}"
        )
        return url.replace(f"{USER}:{PASSWORD}@", "admin:admin@")

    def make_ready(self) -> None:
        super().make_ready()
        self.read_only(on=False)

    def execute(self, statements: str, database: str = "", *, timeout_s: float = STATEMENTS_S) -> list[list[str]]:
        """Run SQL as root and return the rows as text."""
        client = [
            "mariadb",
            "--no-defaults",
            f"--socket={self._socket}",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]
        output = run([*client, f"--execute={statements}", database], self._environ(), timeout_s)
        return [line.split("\t") for line in output.splitlines()]

    @property
    def _socket(self) -> str:
        return str(self.directory / "socket")

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _prepare(self) -> None:
        # The installation itself need not be durable, which saves time.
        quick = ["--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=10M", "--skip-test-db", "--force"]
        rights = ["--auth-root-authentication-method=normal", f"--user={getpass.getuser()}"]
        self._run(["mariadb-install-db", "--no-defaults", f"--datadir={self._data}", *rights, *quick])
        self._write_init_file()

    def _write_init_file(self) -> None:
        (self.directory / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS {USER}@'{LOOPBACK}' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON `test\\_%`.* TO {USER}@'{LOOPBACK}';\n"
        )

    def _command(self) -> list[str]:
        where = [
            f"--datadir={self._data}",
            f"--socket={self._socket}",
            f"--port={self.port}",
            f"--tmpdir={self.directory}",
        ]
        return [
            "mariadbd",
            "--no-defaults",
            *where,
            f"--user={getpass.getuser()}",
            f"--bind-address={LOOPBACK}",
            f"--pid-file={self.directory / 'pid'}",
            f"--init-file={self.directory / 'init.sql'}",
            f"--innodb-buffer-pool-size={self.buffer_pool_bytes}",
            f"--innodb-log-file-size={self.log_file_bytes}",
            f"--max-connections={self.max_connections}",
            "--innodb-flush-log-at-trx-commit=1",
            "--performance-schema=OFF",
            "--character-set-server=utf8mb4",
            "--skip-name-resolve",
            *self._tls_options(),
            *self.options,
        ]

    def _tls_options(self) -> list[str]:
        if (files := self.certificate) is None:
            return []
        return [f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}"]

    def _answers(self) -> bool:
        # The server speaks first: three bytes of length, packet 0, protocol 10 (255 in an error packet).
        return answers(self.port, b"", b"\x00\x0a", skip=3)
