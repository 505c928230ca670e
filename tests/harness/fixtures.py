"""Servers for the tests, started when the first test of a worker asks for one, and put right before each that asks.

A worker's tests share one server of each kind and see nothing of each other: each has a virtual host, a database of
its own. A test may kill, stop or block the server; the next one gets it back in order.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import need
from tests.harness.certificates import Authority
from tests.harness.maria import MariaServer
from tests.harness.proxy import FaultProxy, fault_proxies
from tests.harness.rabbit import RabbitServer
from tests.harness.redis import RedisServer
from tests.harness.server import Guard, Server


@pytest.fixture(scope="session")
def server_guard() -> Iterator[Guard]:
    """Where private servers live; a test may start more of them here."""
    with Guard() as guard:
        yield guard


def _needed(kind: type[Server]) -> None:
    missing = kind.missing()
    need(missing is None, missing or "")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def rabbit_server(server_guard: Guard, authority: Authority) -> Iterator[RabbitServer]:
    _needed(RabbitServer)
    server = RabbitServer(server_guard, certificate=authority.issue("localhost"))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def maria_server(server_guard: Guard, authority: Authority) -> Iterator[MariaServer]:
    _needed(MariaServer)
    server = MariaServer(server_guard, certificate=authority.issue("localhost"))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(server_guard: Guard, authority: Authority) -> Iterator[RedisServer]:
    _needed(RedisServer)
    server = RedisServer(server_guard, files=authority.issue("localhost"))
    server.make_ready()
    yield server
    server.kill()


@pytest.fixture
def vhost_url(rabbit_server: RabbitServer) -> Iterator[str]:
    """``amqp://`` url of an empty virtual host."""
    rabbit_server.make_ready()
    vhost = rabbit_server.vhost()
    yield rabbit_server.url(vhost)
    if rabbit_server.is_running:
        rabbit_server.make_ready()
        rabbit_server.delete_vhost(vhost)


@pytest.fixture
def maria_url(maria_server: MariaServer) -> Iterator[str]:
    """``mysql+asyncmy://`` url of an empty database."""
    maria_server.make_ready()
    database = maria_server.database()
    yield maria_server.url(database)
    if maria_server.is_running:
        maria_server.make_ready()
        maria_server.drop(database)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """``redis://`` url of an empty Redis."""
    redis_server.make_ready()
    redis_server.flush()
    return redis_server.url()


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """A function that puts a proxy in front of the address of a url: ``fault_proxy(vhost_url).url(vhost_url)``."""
    with fault_proxies() as in_front_of:
        yield in_front_of
