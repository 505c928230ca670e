"""Clients of redis-py: RESP3 through hiredis, no retries, no timeouts (`RedisCommands` sets one deadline per command).

All keys have one hash tag, so a cluster keeps them in one slot and a script may touch several. A cluster then survives
the loss of a node; it does not spread the load.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import attrs
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chatflow.adapters.redis.address import Address, Kind
from chatflow.adapters.redis.compat import connection_options
from chatflow.ports.tls import Tls

Client: TypeAlias = "Redis | RedisCluster"


@attrs.define(eq=False)
class RedisClients:
    """Opens nothing by itself: connections are made at their first use.

    Attributes:
        connections: at most so many at a time, listeners not counted.
        options: of every connection, see `compat`.
        sentinel_timeout_s: how long one Sentinel may take to answer before the next one is asked.
    """

    address: Address
    connections: int = attrs.field(kw_only=True)
    options: Mapping[str, Any] = attrs.field(factory=connection_options, kw_only=True)
    sentinel_timeout_s: float = attrs.field(default=0.25, kw_only=True)
    data: Client = attrs.field(init=False)
    _sentinels: Sentinel | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.address.kind is Kind.SENTINEL:
            self._sentinels = self._ask_sentinels()
        self.data = self._cluster() if self.address.kind is Kind.CLUSTER else self._one_server(self.connections)

    async def listener(self) -> "tuple[Redis, PubSub]":
        """A client with one connection to the server that keeps the keys, and its pub/sub."""
        client = await self._owner() if isinstance(self.data, RedisCluster) else self._one_server(1)
        return client, client.pubsub()

    async def close(self) -> None:
        """Close all connections but those of listeners."""
        await self.data.aclose()
        if self._sentinels is not None:
            await self._sentinels.aclose()

    def _one_server(self, connections: int) -> Redis:
        arguments = self._arguments() | {"db": self.address.database}
        if self._sentinels is not None:
            master = self._sentinels.master_for(
                self.address.master, max_connections=connections, ssl=self.address.tls is not None, **arguments
            )
            return cast("Redis", master)
        host, port = self.address.nodes[0]
        connection_class = Connection if self.address.tls is None else SSLConnection
        pool = ConnectionPool(
            connection_class=connection_class, max_connections=connections, host=host, port=port, **arguments
        )
        return Redis.from_pool(pool)

    def _cluster(self) -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in self.address.nodes]
        is_tls = self.address.tls is not None
        return RedisCluster(startup_nodes=nodes, max_connections=self.connections, ssl=is_tls, **self._arguments())

    async def _owner(self) -> Redis:
        """A client of the node that runs our scripts: it delivers what they publish first."""
        cluster = cast("RedisCluster", self.data)
        cluster = await cluster.initialize()
        node = cluster.get_node_from_key(SLOT)
        if node is None:
            raise ConnectionError("the cluster has no master for our slot")
        connection_class = Connection if self.address.tls is None else SSLConnection
        pool = ConnectionPool(
            connection_class=connection_class, max_connections=1, host=node.host, port=node.port, **self._arguments()
        )
        return Redis.from_pool(pool)

    def _ask_sentinels(self) -> Sentinel:
        arguments = self._arguments() | {
            "username": self.address.sentinel_username,
            "password": self.address.sentinel_password,
            "socket_timeout": self.sentinel_timeout_s,
            "socket_connect_timeout": self.sentinel_timeout_s,
            "ssl": self.address.tls is not None,
        }
        return Sentinel(list(self.address.nodes), sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]

    def _arguments(self) -> dict[str, Any]:
        return {
            "username": self.address.username,
            "password": self.address.password,
            "protocol": 3,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": None,
            **self.options,
            **_tls_arguments(self.address.tls),
        }


SLOT = "{chatflow}"
"""The hash tag of every key."""


def _tls_arguments(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl_ca_certs": tls.ca or None,
        "ssl_certfile": tls.certificate or None,
        "ssl_keyfile": tls.key or None,
        "ssl_check_hostname": tls.check_hostname,
    }
