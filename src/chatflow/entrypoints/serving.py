"""Run some of the roles in this process: wait for what they need, start, drain on a signal.

Servers may come in any order: what is not there yet is waited for, with a line every few seconds. What will never be
right - a newer schema, other partitions in the broker - ends the process with one line.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Protocol

import structlog

from chatflow.adapters.sql import migrate
from chatflow.domain.resilience.tasks import end
from chatflow.entrypoints.containers import Container, build_container, opening_of
from chatflow.entrypoints.roles.process import (
    Lifetime,
    Stopped,
    settle_memory,
    share_interpreter,
    stop_on_signals,
)
from chatflow.entrypoints.roles.waiting import until_there
from chatflow.entrypoints.settings import Settings
from chatflow.entrypoints.summaries import catch_up_summaries
from chatflow.ports.errors import SchemaMismatch

log = structlog.get_logger()


class Role(Protocol):
    """One role as a process sees it."""

    async def start(self, lifetime: Lifetime) -> None:
        """Listen and start the loops; raises ``StartError`` when a port is taken."""

    async def drain(self) -> None:
        """Take nothing new and finish what was taken."""

    async def close(self) -> None:
        """Stop listening; idempotent."""


async def serve_roles(
    settings: Settings,
    names: tuple[str, ...],
    *,
    greet: Callable[[Mapping[str, Role]], None] = lambda _: None,
) -> None:
    """Run these roles until SIGINT, SIGTERM or a failure; they start in the given order and drain in reverse.

    Raises:
        StartError: a port is taken.
        SchemaMismatch: the database is newer than this program.
        BrokerMisconfigured: the broker holds something else.
    """
    lifetime = Lifetime()
    stop_on_signals(lifetime)
    with contextlib.suppress(Stopped):
        is_alone = "processor" in names and settings.common.is_embedded
        async with opened(build_container(settings, is_alone=is_alone), lifetime, names) as container:
            await lifetime.unless_stopped(_check_database(container, settings))
            roles: dict[str, Role] = {name: await container.providers[name].async_() for name in names}
            await _run(lifetime, settings, roles, greet)


@contextlib.asynccontextmanager
async def opened(
    container: Container, lifetime: Lifetime, names: Collection[str] = ("gateway", "processor", "api")
) -> AsyncIterator[Container]:
    """The container with the resources of these roles open, closed at the end.

    Raises:
        Stopped: asked to stop while it waited for a server.
    """
    opening = opening_of(container, names)
    try:
        await lifetime.unless_stopped(asyncio.gather(*opening))
        yield container
    finally:
        await end(opening)  # of several that are cancelled, a driver may take its time over one
        if (closing := container.shutdown_resources()) is not None:
            await closing


async def _check_database(container: Container, settings: Settings) -> None:
    """Wait for the database and for its schema; count what a profile without summaries has left out."""
    database = await container.database.async_()

    async def check() -> None:
        try:
            await migrate.check_schema(database)
        except SchemaMismatch as exc:
            if exc.is_newer:
                raise
            raise SchemaNotThereYet(str(exc)) from exc

    await until_there("database", check, SchemaNotThereYet)
    if settings.common.profile.summaries:
        await catch_up_summaries(await container.summary_tables.async_())


class SchemaNotThereYet(Exception):
    """Somebody else is expected to run ``chatflow migrate``."""


async def _run(
    lifetime: Lifetime,
    settings: Settings,
    roles: Mapping[str, Role],
    greet: Callable[[Mapping[str, Role]], None],
) -> None:
    try:
        for role in roles.values():
            await role.start(lifetime)
        settle_memory()
        share_interpreter()
        greet(roles)
        await lifetime.stopped()
        try:
            async with asyncio.timeout(settings.common.drain_s):
                for role in reversed(list(roles.values())):
                    await role.drain()
        except TimeoutError:
            log.warning("process.drain_timed_out", after_s=settings.common.drain_s)
    finally:
        for role in roles.values():
            await role.close()
        await lifetime.close()
