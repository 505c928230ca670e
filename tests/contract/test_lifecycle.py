"""What is opened at start and closed at the end, over each adapter: it is ready, it answers, and it can be closed."""

import time

import pytest

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.adapters.memory.services import open_memory
from chatflow.adapters.rabbitmq.broker import open_broker
from chatflow.adapters.redis.services import open_redis
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.opening import open_database
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, StoreUnavailable
from tests.contract.store_maria import maria_schemas
from tests.harness.lifecycle import opened
from tests.harness.ports import free_port

__all__ = ["maria_schemas"]

NOBODY = {
    "rabbitmq": lambda port: open_broker([f"amqp://127.0.0.1:{port}/"], partitions=1, queue_limit_bytes=2**20),
    "mariadb": lambda port: open_database(f"mysql+asyncmy://nobody@127.0.0.1:{port}/nothing", read_deadline_s=1),
}


@pytest.fixture(params=["memory broker", "rabbitmq", "sqlite", "mariadb", "memory cache", "redis"])
def service(request, tmp_path):
    """Makes one that is not open yet, and names what it raises without its server."""
    match request.param:
        case "memory broker":
            return lambda: MemoryBroker(partitions=2), BrokerUnavailable
        case "rabbitmq":
            url = request.getfixturevalue("vhost_url")
            return lambda: open_broker([url], partitions=2, queue_limit_bytes=2**20), BrokerUnavailable
        case "sqlite":
            url = f"sqlite:///{tmp_path}/chatflow.db"
            migrate.upgrade(url)
            return lambda: open_database(url), StoreUnavailable
        case "mariadb":
            request.getfixturevalue("maria_server").make_ready()
            url = request.getfixturevalue("maria_schemas").emptied().url
            return lambda: open_database(url), StoreUnavailable
        case "memory cache":
            return lambda: open_memory(time.monotonic, limit_entries=1, limit_bytes=1), CacheUnavailable
        case _:
            url = request.getfixturevalue("redis_url")
            return lambda: open_redis(url, clock=time.monotonic, timeout_s=5), CacheUnavailable


async def test_what_is_open_answers_and_what_is_closed_says_so(service):
    make, unavailable = service
    async with opened(make()) as ready:
        await ready.ping()
    with pytest.raises(unavailable):
        await ready.ping()


async def test_what_is_closed_twice_or_was_never_opened_is_closed(service):
    make, _ = service
    made = make()
    await made.close()
    await made.close()


@pytest.mark.parametrize("name", NOBODY)
async def test_without_its_server_it_does_not_open_can_be_tried_again_and_can_be_closed(name):
    made = NOBODY[name](free_port())
    for _ in range(2):
        with pytest.raises((BrokerUnavailable, StoreUnavailable)):
            await made.open()
    await made.close()


async def test_a_cache_opens_without_its_server_and_does_not_answer():
    made = open_redis(f"redis://127.0.0.1:{free_port()}/0", clock=time.monotonic)
    async with opened(made):
        with pytest.raises(CacheUnavailable):
            await made.ping()
