"""The suites of the contracts and of the adapters once more, on servers that this release of Debian does not ship.

A module here takes over the tests of another (`taken_from`), whose fixtures ``maria_server`` and ``rabbit_server`` then
are MySQL and RabbitMQ 4, or in modules whose name says so, MariaDB 11. Where there is no debootstrap, or the mirror
lacks a release, its tests are skipped, CI or not.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.maria import MARIADB_11, MariaServer
from tests.harness.mysql import MYSQL, MysqlServer
from tests.harness.rabbit import RABBITMQ_4, RabbitServer
from tests.harness.roots import NoRoot, Root
from tests.harness.server import Guard

HERE = Path(__file__).parent
TIMEOUT_S = 600
"""Such a server may be slower: MySQL syncs its binary log too."""
_ROOTS = {"test_mysql": [MYSQL], "test_mariadb": [MARIADB_11], "test_rabbitmq": [RABBITMQ_4]}
"""By what a module's name begins with; any other needs MySQL and RabbitMQ 4."""
_ELSEWHERE = ("[sqlite", "[memory")
"""Parameters of tests that need no server, and are not run again."""
_missing: dict[Root, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_here(item) or not any(part in item.name for part in _ELSEWHERE)]
    for item in items:
        if _is_here(item):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the roots before the first test, whose time does not count then."""
    names = {item.path.stem for item in session.items if _is_here(item)}
    for root in {root for name in names for root in _roots_of(name)}:
        try:
            root.provide()
        except NoRoot as reason:
            _missing[root] = str(reason)


def _is_here(item: pytest.Item) -> bool:
    return item.path.is_relative_to(HERE)


def _roots_of(name: str) -> list[Root]:
    return next((roots for begin, roots in _ROOTS.items() if name.startswith(begin)), [MYSQL, RABBITMQ_4])


def _provided(root: Root) -> Root:
    if root in _missing:
        pytest.skip(_missing[root])
    return root


@pytest.fixture(scope="session")
def maria_server(server_guard: Guard) -> Iterator[MariaServer]:
    server = MysqlServer(server_guard, root=_provided(MYSQL))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mariadb_11_server(server_guard: Guard) -> Iterator[MariaServer]:
    server = MariaServer(server_guard, root=_provided(MARIADB_11))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbit_server(server_guard: Guard) -> Iterator[RabbitServer]:
    server = RabbitServer(server_guard, root=_provided(RABBITMQ_4))
    server.make_ready()
    yield server
    server.kill()
