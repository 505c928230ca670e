"""Every kind of fault by name. Each takes its target, breaks it, waits, and puts right only what it broke itself.

A supervisor would start again what was killed, so that is done here too; nothing else is restarted.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from random import Random

import attrs

from tests.fault.site import LINKS, ServerName, Site
from tests.harness.process import RoleName
from tests.harness.proxy import FaultProxy

REFUSALS = 200
"""A broker counts as full when it has refused so many messages."""
FLOOD_PADDING = 450
FULL_DEADLINE_S = 60.0


@attrs.frozen
class Lengths:
    """How long faults last, in seconds, each from a range.

    Attributes:
        dead: from a kill to the start.
        stopped: from SIGSTOP to SIGCONT.
        broken: a link, or a database that refuses writes.
    """

    dead: tuple[float, float]
    stopped: tuple[float, float]
    broken: tuple[float, float]


SHORT = Lengths(dead=(0.0, 0.3), stopped=(1.5, 3.0), broken=(1.0, 2.0))
LONG = Lengths(dead=(0.0, 5.0), stopped=(5.0, 20.0), broken=(2.0, 15.0))

Fault = Callable[[Site, Random, Lengths], Awaitable[str]]
"""Breaks something and puts it right; names its target."""


async def kill_role(kind: RoleName, site: Site, chance: Random, lengths: Lengths) -> str:
    role = chance.choice(site.fleet.of(kind))
    dead_s = chance.uniform(*lengths.dead)
    async with site.alone(role.name):
        assert role.is_running, f"{role.name} ended by itself: {role.log_text[-2000:]}"
        await asyncio.to_thread(role.kill)
        await asyncio.sleep(dead_s)
        role.start()
        await role.ready()
    return role.name


async def pause_role(kind: RoleName, site: Site, chance: Random, lengths: Lengths) -> str:
    role = chance.choice(site.fleet.of(kind))
    stopped_s = chance.uniform(*lengths.stopped)
    async with site.alone(role.name):
        role.pause()
        try:
            await asyncio.sleep(stopped_s)
        finally:
            role.resume()
    return role.name


async def kill_server(name: ServerName, site: Site, chance: Random, lengths: Lengths) -> str:
    server = site.servers[name]
    dead_s = chance.uniform(*lengths.dead)
    async with site.alone(name):
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(dead_s)
        server.start()
        await asyncio.to_thread(server.ready)
    return name


async def pause_server(name: ServerName, site: Site, chance: Random, lengths: Lengths) -> str:
    server = site.servers[name]
    stopped_s = chance.uniform(*lengths.stopped)
    async with site.alone(name):
        server.pause()
        try:
            await asyncio.sleep(stopped_s)
        finally:
            server.resume()
    return name


def cut(proxy: FaultProxy, chance: Random) -> None:
    """Reset every connection; half of the times the next ones are refused, too."""
    if chance.random() < 0.5:
        proxy.refuse()
    proxy.cut()


def half_open(proxy: FaultProxy, chance: Random) -> None:
    proxy.half_open(chance.choice(("up", "down", "both")))


def slow(proxy: FaultProxy, chance: Random) -> None:
    if chance.random() < 0.5:
        proxy.delay(chance.uniform(0.02, 0.3))
    else:
        proxy.throttle(chance.uniform(20_000, 200_000))


async def break_link(
    link: str, how: Callable[[FaultProxy, Random], None], site: Site, chance: Random, lengths: Lengths
) -> str:
    name, proxy = chance.choice(list(site.proxies[link].items()))
    broken_s = chance.uniform(*lengths.broken)
    async with site.alone(f"{link} {name}"):
        await asyncio.to_thread(how, proxy, chance)
        try:
            await asyncio.sleep(broken_s)
        finally:
            await asyncio.to_thread(proxy.heal)
    return name


async def refuse_writes(site: Site, chance: Random, lengths: Lengths) -> str:
    broken_s = chance.uniform(*lengths.broken)
    async with site.alone("maria"):
        await asyncio.to_thread(site.maria.read_only, on=True)
        try:
            await asyncio.sleep(broken_s)
        finally:
            await asyncio.to_thread(site.maria.read_only, on=False)
    return "maria"


async def fill_broker(site: Site, chance: Random, lengths: Lengths) -> str:
    """Nothing is stored while the senders send all they can, until the broker refuses them for lack of room."""
    broken_s = chance.uniform(*lengths.broken)
    async with site.alone("maria"):
        await asyncio.to_thread(site.maria.read_only, on=True)
        try:
            with flooding(site):
                async with asyncio.timeout(FULL_DEADLINE_S):
                    while sum(sender.reasons["busy"] for sender in site.senders) < REFUSALS:
                        await asyncio.sleep(0.1)
                await asyncio.sleep(broken_s)
        finally:
            await asyncio.to_thread(site.maria.read_only, on=False)
    return "rabbit"


@contextlib.contextmanager
def flooding(site: Site) -> Iterator[None]:
    """Long messages, as many as the window allows."""
    before = [(sender.pace, sender.padding) for sender in site.senders]
    for sender in site.senders:
        sender.pace, sender.padding = None, FLOOD_PADDING
    try:
        yield
    finally:
        for sender, (pace, padding) in zip(site.senders, before, strict=True):
            sender.pace, sender.padding = pace, padding


KINDS: dict[str, Fault] = {
    **{f"kill-{role}": functools.partial(kill_role, role) for role in ("gateway", "processor")},
    **{f"kill-{server}": functools.partial(kill_server, server) for server in ("rabbit", "maria")},
    **{f"pause-{role}": functools.partial(pause_role, role) for role in ("gateway", "processor")},
    **{f"pause-{server}": functools.partial(pause_server, server) for server in ("rabbit", "maria")},
    **{f"cut-{link}": functools.partial(break_link, link, cut) for link in LINKS},
    **{f"half-open-{link}": functools.partial(break_link, link, half_open) for link in LINKS},
    **{f"slow-{link}": functools.partial(break_link, link, slow) for link in LINKS},
    "read-only-maria": refuse_writes,
    "full-rabbit": fill_broker,
}
