"""A private MariaDB Galera cluster: nodes that certify each other's commits, each on its own ports."""

import os
import shutil
from pathlib import Path
from typing import Self

import attrs

from tests.harness.maria import MariaServer
from tests.harness.ports import LOOPBACK, free_port
from tests.harness.programs import absent
from tests.harness.server import Guard

PROVIDERS = (
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib/libgalera_smm.so",
)
READY = "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'wsrep_ready'"


def provider() -> str | None:
    """The path of Galera's library; ``None``: it is not installed."""
    return next((path for path in PROVIDERS if Path(path).exists()), None)


@attrs.define(eq=False)
class GaleraNode(MariaServer):
    """One node. The first one starts the cluster, the others copy its data.

    Attributes:
        first: the node that starts the cluster; ``None``: this one does.
    """

    first: "GaleraNode | None" = attrs.field(default=None, kw_only=True)
    _group_port: int = attrs.field(factory=free_port, init=False)
    _ist_port: int = attrs.field(factory=free_port, init=False)
    _sst_port: int = attrs.field(factory=free_port, init=False)

    @staticmethod
    def missing() -> str | None:
        if absent("rsync") or provider() is None:
            return "no Galera found: install the packages galera-4 and rsync"
        return MariaServer.missing()

    @property
    def group_address(self) -> str:
        return f"{LOOPBACK}:{self._group_port}"

    def _prepare(self) -> None:
        if self.first is None:
            super()._prepare()
            return
        Path(self._data).mkdir()
        if os.geteuid() == 0:  # the data comes by rsync, whose daemon gives root's rights up
            for directory in (self.guard.directory, self.directory):
                directory.chmod(0o711)
            shutil.chown(self._data, "nobody")
        self._write_init_file()

    def _command(self) -> list[str]:
        wiring = f"gmcast.listen_addr=tcp://{self.group_address};ist.recv_addr={LOOPBACK}:{self._ist_port}"
        return [
            *super()._command(),
            "--wsrep-on=ON",
            f"--wsrep-provider={provider()}",
            f"--wsrep-provider-options={wiring};gcache.size=32M",
            "--wsrep-cluster-name=chatflow-tests",
            f"--wsrep-cluster-address=gcomm://{self.first.group_address if self.first else ''}",
            f"--wsrep-node-address={self.group_address}",
            f"--wsrep-sst-receive-address={LOOPBACK}:{self._sst_port}",
            "--wsrep-sst-method=rsync",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
        ]

    def _answers(self) -> bool:
        return super()._answers() and self.execute(READY) == [["ON"]]


@attrs.define(eq=False)
class GaleraCluster:
    """Two nodes that both accept writes."""

    nodes: list[GaleraNode]

    @classmethod
    def start(cls, guard: Guard, **options: int) -> Self:
        first = GaleraNode(guard, **options)
        first.start()
        first.ready()
        second = GaleraNode(guard, first=first, **options)
        second.start()
        second.ready()
        return cls([first, second])

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()
