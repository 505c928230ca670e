"""File descriptors: every connection takes one, and a process that has none left accepts nobody and can open nothing.

At start the limit is raised as far as the system lets us, and what clients may open is held against it, so that the
connections of one port leave the other ports, the database and the broker what they need.
"""

import asyncio
import errno
import os
import resource
from collections.abc import Collection

import attrs
import structlog

from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Settings

RESERVE = 256
"""For files, the event loop, the broker, the cache, and what the process starts."""

SHARE = 8
"""An HTTP port, and the handshakes, get at most the limit divided by this."""

LOOK_S = 1.0
TELL_S = 10.0
UNLIMITED = 2**20

log = structlog.get_logger()


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def fitted(settings: Settings, roles: Collection[str], limit: int) -> Settings:
    """The settings with no more connections than the limit has descriptors for.

    Raises:
        StartError: somebody has asked for more by hand.
    """
    common, gateway = settings.common, settings.gateway
    http_max = min(common.http_connections_max, limit // SHARE)
    common = attrs.evolve(common, http_connections_max=http_max)
    handshakes = min(gateway.handshakes_max, limit // SHARE) if "gateway" in roles else 0
    ports = len({"gateway", "processor", "api"} & set(roles))
    others = RESERVE + common.reader_pool + settings.processor.writer_pool + ports * http_max + handshakes
    connections = max(1, min(gateway.connections_max, limit - others))
    if "gateway" in roles and connections < gateway.connections_max:
        if "CHATFLOW_CONNECTIONS_MAX" in common.origins:
            needed = gateway.connections_max + others
            raise StartError(
                f"CHATFLOW_CONNECTIONS_MAX={gateway.connections_max} needs {needed} file descriptors, and this process "
                f"may have {limit} (ulimit -Hn): at most {connections} connections fit"
            )
        log.warning("process.few_descriptors", limit=limit, connections_max=connections)
    return attrs.evolve(
        settings,
        common=common,
        gateway=attrs.evolve(
            gateway, common=common, connections_max=connections, handshakes_max=handshakes or gateway.handshakes_max
        ),
        processor=attrs.evolve(settings.processor, common=common),
        api=attrs.evolve(settings.api, common=common),
    )


async def watch() -> None:
    """Say so while the process has none left, which the event loop does not: it hangs up on who connects."""
    told_at = -TELL_S
    while True:
        await asyncio.sleep(LOOK_S)
        now = asyncio.get_running_loop().time()
        if now - told_at >= TELL_S and _has_none_left():
            told_at = now
            log.error("process.out_of_descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _has_none_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in {errno.EMFILE, errno.ENFILE}
    return False
