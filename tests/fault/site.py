"""What a campaign breaks: two gateways, two processors, a RabbitMQ and a MariaDB, and a proxy on every link."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import attrs

from tests.fault.clients import LedgerSender
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.process import RoleProcess
from tests.harness.proxy import FaultProxy, fault_proxies
from tests.harness.rabbit import RabbitServer
from tests.harness.server import Server

ServerName = Literal["rabbit", "maria"]
CLIENT_LINK = "client-gateway"
LINKS = (CLIENT_LINK, "gateway-rabbit", "processor-rabbit", "gateway-maria", "processor-maria")
SETTINGS = {
    # Queues that a few seconds of a stopped database fill: then the broker refuses, and nobody may lose anything.
    "CHATFLOW_BROKER_LIMIT_BYTES": str(2**19),
    # A listener that was away for a whole round gets everything by `since`.
    "CHATFLOW_REPLAY_LIMIT": "1000000",
}


@attrs.define(eq=False)
class Site:
    """Everything that can be broken, by name.

    Attributes:
        proxies: by link and role, such as ``proxies["gateway-rabbit"]["gateway-1"]``.
        senders: of the present round.
    """

    rabbit: RabbitServer
    maria: MariaServer
    database: str
    fleet: Fleet
    proxies: dict[str, dict[str, FaultProxy]]
    senders: list[LedgerSender] = attrs.field(factory=list, init=False)
    _locks: dict[str, asyncio.Lock] = attrs.field(factory=dict, init=False)

    @property
    def servers(self) -> dict[ServerName, Server]:
        return {"rabbit": self.rabbit, "maria": self.maria}

    @property
    def urls(self) -> list[str]:
        """Where clients connect: each gateway behind its proxy."""
        return [f"ws://127.0.0.1:{proxy.port}/ws" for proxy in self.proxies[CLIENT_LINK].values()]

    def alone(self, target: str) -> asyncio.Lock:
        """Held by the one fault that has a role, a server or a link in its hands."""
        return self._locks.setdefault(target, asyncio.Lock())

    async def unfit(self) -> list[str]:
        """Roles that cannot do their work now."""
        roles = list(self.fleet.roles.values())
        fit = await asyncio.gather(*(role.is_fit() for role in roles))
        return [role.name for role, is_fit in zip(roles, fit, strict=True) if not is_fit]

    def ended(self) -> list[str]:
        """Roles that ended by themselves: the campaign starts again at once what it kills."""
        return [f"{role.name}: {role.log_text[-2000:]}" for role in self.fleet.roles.values() if not role.is_running]


@contextlib.asynccontextmanager
async def opened_site(
    rabbit: RabbitServer, maria: MariaServer, directory: Path, settings: dict[str, str]
) -> AsyncIterator[Site]:
    """Start servers, proxies and roles; end them all."""
    with contextlib.ExitStack() as stack:
        for server in (rabbit, maria):
            stack.callback(server.kill)
            server.start()
        for server in (rabbit, maria):
            await asyncio.to_thread(server.ready)
        database = maria.database()
        urls = rabbit.url(rabbit.vhost()), maria.url(database)
        fleet = Fleet(directory, *urls, settings=SETTINGS | settings)
        stack.callback(fleet.kill)
        proxies = stack.enter_context(_proxied(fleet))
        await fleet.start()
        await asyncio.to_thread(rabbit.settle)
        yield Site(rabbit, maria, database, fleet, proxies)


@contextlib.contextmanager
def _proxied(fleet: Fleet) -> Iterator[dict[str, dict[str, FaultProxy]]]:
    """Put a proxy before each role's broker and database, and before each gateway."""
    proxies: dict[str, dict[str, FaultProxy]] = {link: {} for link in LINKS}
    with fault_proxies() as in_front_of:
        for role in fleet.roles.values():
            broker = proxies[f"{role.role}-rabbit"][role.name] = in_front_of(fleet.broker_url)
            database = proxies[f"{role.role}-maria"][role.name] = in_front_of(fleet.database_url)
            role.settings = role.settings | {
                "CHATFLOW_BROKER_URL": broker.url(fleet.broker_url),
                "CHATFLOW_DATABASE_URL": database.url(fleet.database_url),
            }
        for gateway in fleet.of("gateway"):
            proxies[CLIENT_LINK][gateway.name] = in_front_of(_url_of(gateway))
        yield proxies


def _url_of(gateway: RoleProcess) -> str:
    return f"ws://127.0.0.1:{gateway.port}"
