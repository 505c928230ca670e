"""Run roles in this process: wait for their servers, start, and drain on a signal.

Servers may start in any order: a role waits for one that is not ready and logs so every few seconds. What no waiting
cures, such as a newer schema or another number of partitions in the broker, ends the process with one line.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import ClassVar, Protocol

import structlog

from chatflow.adapters.audit_log import AuditLog
from chatflow.adapters.sql import migrate
from chatflow.adapters.tls.entry import TlsEntrance
from chatflow.domain.resilience.tasks import end
from chatflow.entrypoints.containers import Container, build_container, start_opening
from chatflow.entrypoints.data_directory import in_use
from chatflow.entrypoints.roles import descriptors
from chatflow.entrypoints.roles.process import (
    Lifetime,
    Stopped,
    settle_memory,
    share_interpreter,
    stop_on_signals,
)
from chatflow.entrypoints.roles.waiting import until_ready
from chatflow.entrypoints.settings import Settings, describe
from chatflow.entrypoints.summaries import catch_up_summaries
from chatflow.ports.errors import ChatflowError, SchemaMismatch

log = structlog.get_logger()


class Role(Protocol):
    """One role, as its process sees it."""

    async def start(self, lifetime: Lifetime) -> None:
        """Listen and start the loops; raises ``StartError`` when a port is taken."""

    async def drain(self) -> None:
        """Take nothing new and finish what was taken."""

    async def close(self) -> None:
        """Stop listening; idempotent."""


class SchemaNotReady(ChatflowError):
    """Nobody has run ``chatflow migrate`` yet."""

    retryable: ClassVar[bool] = True


async def serve_roles(
    settings: Settings,
    names: tuple[str, ...],
    *,
    greet: Callable[[Mapping[str, Role]], None] = lambda _: None,
) -> None:
    """Run these roles until SIGINT, SIGTERM or a failure. They start in the given order and drain in reverse.

    Raises:
        StartError: a port is taken, or there are fewer file descriptors than connections.
        SchemaMismatch: the database is newer than this program.
        BrokerMisconfigured: the broker's topology is not what this program declares.
    """
    settings = descriptors.fitted(settings, names, descriptors.raise_limit())
    lifetime = Lifetime()
    stop_on_signals(lifetime)
    with contextlib.suppress(Stopped):
        is_alone = "processor" in names and settings.common.is_embedded
        container = build_container(settings, is_alone=is_alone)
        async with (
            recorded(container.audit_trail(), settings, names),
            renewing(container.tls()),
            opened(container, lifetime, names),
        ):
            await lifetime.unless_stopped(_prepare_database(container, settings))
            await _follow_revocations(container, lifetime)
            roles: dict[str, Role] = {name: await container.providers[name].async_() for name in names}
            await _run(lifetime, settings, roles, greet)


async def serve_apart(settings: Settings, name: str) -> None:
    """Run one role beside others, in a process of its own.

    Raises:
        StartError: its database file is in use by a process that must be alone; and see `serve_roles`.
    """
    with in_use(settings.common, alone=False):
        await serve_roles(settings, (name,))


@contextlib.asynccontextmanager
async def recorded(trail: AuditLog, settings: Settings, names: Collection[str]) -> AsyncIterator[None]:
    """Record with which settings a process starts, and that it stops."""
    changed = {name: shown for name, shown, origin in describe(settings) if origin != "default"}
    trail.acted("process.started", "process", role=",".join(names), settings=changed)
    summing = asyncio.create_task(trail.run())
    try:
        yield
    finally:
        await end([summing])
        trail.acted("process.stopped", "process", role=",".join(names))
        trail.close()


@contextlib.asynccontextmanager
async def renewing(tls: TlsEntrance | None) -> AsyncIterator[None]:
    """Follow the renewals of the ports' certificate; at the end let go of handshakes that have not ended."""
    if tls is None:
        yield
        return
    watching = asyncio.create_task(tls.certificate.watch())
    try:
        yield
    finally:
        await end([watching])
        await tls.close()


@contextlib.asynccontextmanager
async def opened(
    container: Container, lifetime: Lifetime, names: Collection[str] = ("gateway", "processor", "api")
) -> AsyncIterator[Container]:
    """The container with everything open that these roles need; closes it at the end.

    Raises:
        Stopped: asked to stop while it waited for a server.
    """
    opening = start_opening(container, names)
    try:
        await lifetime.unless_stopped(asyncio.gather(*opening))
        yield container
    finally:
        await end(opening)  # a driver may take its time over a cancelled one
        if (closing := container.shutdown_resources()) is not None:
            await closing


async def _prepare_database(container: Container, settings: Settings) -> None:
    """Wait for the database and its schema, then recount summaries that another profile has left out."""
    database = await container.database.async_()

    async def check() -> None:
        try:
            await migrate.check_schema(database)
        except SchemaMismatch as exc:
            if exc.is_newer:
                raise
            raise SchemaNotReady(str(exc)) from exc

    await until_ready("database", check)
    if settings.common.profile.summaries:
        await catch_up_summaries(await container.summary_tables.async_())


async def _follow_revocations(container: Container, lifetime: Lifetime) -> None:
    """Know what was revoked before anybody can come in, and learn the rest while roles run."""
    watch = await container.revocation_watch.async_()
    if watch is not None:
        await lifetime.unless_stopped(until_ready("revocations", watch.read))
        lifetime.run(watch.run())


async def _run(
    lifetime: Lifetime,
    settings: Settings,
    roles: Mapping[str, Role],
    greet: Callable[[Mapping[str, Role]], None],
) -> None:
    try:
        for role in roles.values():
            await role.start(lifetime)
        lifetime.run(descriptors.watch())
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
