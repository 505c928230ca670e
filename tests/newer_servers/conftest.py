"""The suites of the contracts and of the adapters once more, on servers that this release of Debian does not ship.

A module here takes over the tests of another (`taken_from`), whose fixtures ``maria_server`` and ``rabbit_server`` then
are the ones below. Where there is no debootstrap, or the mirror lacks a release, its tests are skipped, CI or not.
"""

from collections.abc import Iterator

import pytest

from tests.harness.mysql import MYSQL, MysqlServer
from tests.harness.rabbit import RABBITMQ_4, RabbitServer
from tests.harness.roots import NoRoot, Root
from tests.harness.server import Guard

TIMEOUT_S = 600
"""Such a server may be slower: MySQL syncs its binary log too."""
_roots = {"maria_server": MYSQL, "rabbit_server": RABBITMQ_4}
_missing: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the roots before the first test, whose time does not count then."""
    here = [item for item in session.items if item.path.is_relative_to(__file__.rpartition("/")[0])]
    for fixture, root in _roots.items():
        if any(fixture in getattr(item, "fixturenames", ()) for item in here):
            try:
                root.provide()
            except NoRoot as reason:
                _missing[fixture] = str(reason)


def _root(fixture: str) -> Root:
    if fixture in _missing:
        pytest.skip(_missing[fixture])
    return _roots[fixture]


@pytest.fixture(scope="session")
def maria_server(server_guard: Guard) -> Iterator[MysqlServer]:
    server = MysqlServer(server_guard, root=_root("maria_server"))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbit_server(server_guard: Guard) -> Iterator[RabbitServer]:
    server = RabbitServer(server_guard, root=_root("rabbit_server"))
    server.make_ready()
    yield server
    server.kill()
