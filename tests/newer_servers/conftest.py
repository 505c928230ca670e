"""The suites of the contracts and of the adapters once more, on servers that this release of Debian does not ship.

A module here takes over the tests of another (`taken_from`), whose fixtures ``maria_server`` and ``rabbit_server`` then
are the ones below.
"""

from collections.abc import Iterator

import pytest

from tests.harness.mysql import MYSQL, MysqlServer
from tests.harness.rabbit import RABBITMQ_4, RabbitServer
from tests.harness.roots import NoRoot, Root
from tests.harness.server import Guard


def provided(root: Root) -> Root:
    """The root, made if need be; what asks for it is skipped where there can be none, also when CI=true: a mirror may
    lack the release."""
    try:
        root.provide()
    except NoRoot as reason:
        pytest.skip(str(reason))
    return root


@pytest.fixture(scope="session")
def maria_server(server_guard: Guard) -> Iterator[MysqlServer]:
    server = MysqlServer(server_guard, root=provided(MYSQL))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbit_server(server_guard: Guard) -> Iterator[RabbitServer]:
    server = RabbitServer(server_guard, root=provided(RABBITMQ_4))
    server.make_ready()
    yield server
    server.kill()
