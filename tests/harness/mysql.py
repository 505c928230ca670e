import getpass
from typing import ClassVar

import attrs

from tests.harness.maria import MariaServer
from tests.harness.ports import LOOPBACK
from tests.harness.roots import Root

MYSQL = Root("sid", ("mysql-server-core",))
"""Debian stable ships MariaDB only."""


@attrs.define(eq=False)
class MysqlServer(MariaServer):
    """MySQL itself, with its defaults for what a client meets: ``caching_sha2_password`` and a binary log."""

    MAY_ALWAYS_WRITE: ClassVar[str] = "CONNECTION_ADMIN"

    def _prepare(self) -> None:
        # The installation itself need not be durable, which saves time.
        quick = ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--skip-innodb-doublewrite"]
        self._run([*self._program(), "--initialize-insecure", *quick])
        self._write_init_file()

    def _command(self) -> list[str]:
        return [
            *self._program(),
            f"--socket={self._socket}",
            f"--port={self.port}",
            f"--bind-address={LOOPBACK}",
            "--mysqlx=OFF",
            f"--pid-file={self.directory / 'pid'}",
            f"--init-file={self.directory / 'init.sql'}",
            f"--innodb-buffer-pool-size={self.buffer_pool_bytes}",
            f"--innodb-redo-log-capacity={self.log_file_bytes}",
            f"--max-connections={self.max_connections}",
            "--innodb-flush-log-at-trx-commit=1",
            "--performance-schema=OFF",
            "--skip-name-resolve",
            *self.options,
        ]

    def _program(self) -> list[str]:
        where = [f"--datadir={self._data}", f"--tmpdir={self.directory}", "--secure-file-priv=NULL"]
        return ["/usr/sbin/mysqld", "--no-defaults", f"--user={getpass.getuser()}", *where]
