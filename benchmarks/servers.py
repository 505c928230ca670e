"""The servers of a scenario: private ones, started for it alone."""

import contextlib
from collections.abc import Iterator

import attrs

from tests.harness.maria import MariaServer
from tests.harness.rabbit import RabbitServer
from tests.harness.redis import RedisServer
from tests.harness.server import Guard, start_together

BUFFER_POOL_BYTES = 2**30


@attrs.frozen(eq=False)
class Servers:
    """One of each."""

    rabbit: RabbitServer
    maria: MariaServer
    redis: RedisServer


@contextlib.contextmanager
def started(*, schedulers: int, log_file_bytes: int) -> Iterator[Servers]:
    """Running servers, which end with the block.

    RabbitMQ has one scheduler: with two, each of its messages wakes both cores, which other processes want, too.
    """
    with Guard() as guard:
        servers = Servers(
            RabbitServer(guard, schedulers=schedulers),
            MariaServer(guard, buffer_pool_bytes=BUFFER_POOL_BYTES, log_file_bytes=log_file_bytes),
            RedisServer(guard),
        )
        start_together(servers.rabbit, servers.maria, servers.redis)
        yield servers
