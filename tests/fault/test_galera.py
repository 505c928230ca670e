"""A short run of ``make galera``: both processors at work, one on each node, and every ack audited."""

from pathlib import Path

import pytest

from tests.conftest import need
from tests.fault.galera import run_once
from tests.harness.galera import GaleraCluster, GaleraNode
from tests.harness.rabbit import RabbitServer
from tests.harness.server import Guard

pytestmark = pytest.mark.timeout(180)


async def test_two_active_processors_on_two_nodes_lose_nothing(server_guard: Guard, tmp_path: Path) -> None:
    for server in (RabbitServer, GaleraNode):
        missing = server.missing()
        need(missing is None, missing or "")
    rabbit = RabbitServer(server_guard)
    rabbit.start()
    cluster = GaleraCluster.start(server_guard)
    rabbit.ready()
    try:
        done = await run_once(tmp_path, rabbit, cluster, 3_000)
    finally:
        cluster.kill()
        rabbit.kill()
    assert done.is_sound, str(done)
    assert done.acked == 3_000
    assert min(done.shares) > 500, f"one processor did everything: {done}"
