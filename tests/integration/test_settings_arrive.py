"""A setting that was changed is what the part that keeps to it works with, in one process and over servers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chatflow.adapters.sql import migrate
from chatflow.entrypoints.containers import Container, build_container
from chatflow.entrypoints.roles.process import Lifetime
from chatflow.entrypoints.serving import opened
from chatflow.entrypoints.settings import load_settings

EMBEDDED = {
    "CHATFLOW_ACCEPT_BUFFER_BYTES": (2**21, lambda on: on.publisher.limit_bytes),
    "CHATFLOW_ACCEPT_PATIENCE_S": (0.7, lambda on: on.publisher.patience_s),
    "CHATFLOW_BATCH_SMALL": (401, lambda on: on.processor.policy.small),
    "CHATFLOW_BATCH_MEDIUM": (402, lambda on: on.processor.policy.medium),
    "CHATFLOW_BATCH_LARGE": (403, lambda on: on.processor.policy.large),
    "CHATFLOW_BATCH_MEDIUM_DEPTH": (404, lambda on: on.processor.policy.medium_depth),
    "CHATFLOW_BATCH_LARGE_DEPTH": (405, lambda on: on.processor.policy.large_depth),
    "CHATFLOW_BREAKER_FAILURES": (
        6,
        lambda on: on.publisher.breaker.failures,
        lambda on: on.processor.breaker.failures,
    ),
    "CHATFLOW_BREAKER_RESET_S": (
        16.0,
        lambda on: on.publisher.breaker.reset_s,
        lambda on: on.processor.breaker.reset_s,
    ),
    "CHATFLOW_BROKER_LIMIT_BYTES": (2**22, lambda on: on.broker.limit_bytes),
    "CHATFLOW_BUFFER_BYTES": (2**20 * 4, lambda on: on.buffer.limit_bytes * 4),
    "CHATFLOW_BUFFER_MESSAGES": (400, lambda on: on.buffer.limit_messages * 4),
    "CHATFLOW_CACHE_BYTES": (
        2**20 * 4,
        lambda on: on.local.answers.limit_bytes + on.local.tails.limit_bytes,
        lambda on: on.shared.limit_bytes,
    ),
    "CHATFLOW_CACHE_ENTRIES": (77, lambda on: on.local.answers.limit_entries, lambda on: on.shared.limit_entries),
    "CHATFLOW_CONFIRM_TIMEOUT_S": (4.5, lambda on: on.broker.confirm_timeout_s),
    "CHATFLOW_CONNECTIONS_MAX": (78, lambda on: on.gateway.server.connections_max),
    "CHATFLOW_CONNECTION_MEMORY_BYTES": (2**23, lambda on: on.gateway.context.memory.limit_bytes),
    "CHATFLOW_FRAME_MAX_BYTES": (2**13, lambda on: on.gateway.server.frame_max_bytes),
    "CHATFLOW_HEARTBEAT_S": (26.0, lambda on: on.gateway.context.heartbeat_s),
    "CHATFLOW_HELLO_TIMEOUT_S": (9.0, lambda on: on.gateway.context.hello_timeout_s),
    "CHATFLOW_INFLIGHT_PER_CONNECTION": (79, lambda on: on.gateway.context.inflight_per_connection),
    "CHATFLOW_LINGER_MS": (3, lambda on: on.processor.policy.linger_s * 1000),
    "CHATFLOW_MESSAGE_MAX_CHARS": (123, lambda on: on.gateway.context.limits.text_max),
    "CHATFLOW_OUTBOUND_LIMIT_BYTES": (2**19, lambda on: on.gateway.context.outbound_limit_bytes),
    "CHATFLOW_PARTITIONS": (
        4,
        lambda on: on.publisher.partitions,
        lambda on: on.broker.partitions,
        lambda on: len(on.processors),
    ),
    "CHATFLOW_PREFETCH": (65, lambda on: on.processor.prefetch),
    "CHATFLOW_PROTOCOL_ERRORS_MAX": (80, lambda on: on.gateway.context.protocol_errors_max),
    "CHATFLOW_READ_DEADLINE_S": (4.0, lambda on: on.database.read_deadline_s),
    "CHATFLOW_READER_POOL": (3, lambda on: on.database.readers),
    "CHATFLOW_READER_QUEUE": (81, lambda on: on.database.read_queue_limit),
    "CHATFLOW_REPLAY_LIMIT": (82, lambda on: on.gateway.context.hub.replay_limit),
    "CHATFLOW_ROOM_MAX_CHARS": (33, lambda on: on.gateway.context.limits.room_max),
    "CHATFLOW_ROOMS_PER_CONNECTION": (83, lambda on: on.gateway.context.rooms_per_connection),
    "CHATFLOW_UNCACHED_READS": (84, lambda on: on.api.queries.cache.uncached_limit),
    "CHATFLOW_USERNAME_MAX_CHARS": (34, lambda on: on.gateway.context.limits.username_max),
    "CHATFLOW_USERNAME_MIN_CHARS": (2, lambda on: on.gateway.context.limits.username_min),
}
SERVERS = {
    "CHATFLOW_BREAKER_FAILURES": (6, lambda on: on.shared.breaker.failures),
    "CHATFLOW_BREAKER_RESET_S": (16.0, lambda on: on.shared.breaker.reset_s),
    "CHATFLOW_BROKER_LIMIT_BYTES": (2**22, lambda on: on.broker.topology.queue_limit_bytes),
    "CHATFLOW_CONFIRM_TIMEOUT_S": (4.5, lambda on: on.broker.publisher.deadlines.timeout_s),
    "CHATFLOW_PARTITIONS": (4, lambda on: on.broker.topology.partitions),
    "CHATFLOW_READ_DEADLINE_S": (4.0, lambda on: on.database.read_deadline_s),
    "CHATFLOW_READER_POOL": (3, lambda on: on.database.pools()["reader"].size),
    "CHATFLOW_READER_QUEUE": (81, lambda on: on.database.read_queue_limit),
    "CHATFLOW_WRITE_DEADLINE_S": (9.5, lambda on: on.database.write_deadline_s),
    "CHATFLOW_WRITER_POOL": (2, lambda on: on.database.pools()["writer"].size),
}
NOWHERE = {
    "CHATFLOW_BROKER_URL": "amqp://nobody@127.0.0.1:1/nothing",
    "CHATFLOW_DATABASE_URL": "mysql+asyncmy://nobody@127.0.0.1:1/nothing",
    "CHATFLOW_CACHE_URL": "redis://127.0.0.1:1/0",
}


def container_of(data_dir: Path, table: dict[str, Any], urls: dict[str, str]) -> Container:
    changed = {name: str(value) for name, (value, *_) in table.items()}
    return build_container(load_settings("up", {"CHATFLOW_DATA_DIR": str(data_dir), **urls, **changed}, dotenv=None))


def check(table: dict[str, Any], parts: dict[str, Any]) -> None:
    on = SimpleNamespace(**parts)
    arrived = {name: [look(on) for look in looks] for name, (_, *looks) in table.items()}
    assert arrived == {name: [value] * len(looks) for name, (value, *looks) in table.items()}


async def test_each_changed_setting_arrives_in_one_process(tmp_path: Path) -> None:
    container = container_of(tmp_path, EMBEDDED, {})
    migrate.upgrade(f"sqlite:///{tmp_path}/chatflow.db")
    async with opened(container, Lifetime()):
        gateway, processors = await container.gateway.async_(), (await container.processor.async_()).processors
        api = await container.api.async_()
        parts = {
            "gateway": gateway,
            "publisher": gateway.context.publisher,
            "broker": gateway.broker,
            "processors": processors,
            "processor": processors[0],
            "buffer": processors[0].new_buffer(),
            "api": api,
            "local": api.queries.cache.local,
            "shared": api.queries.cache.shared,
            "database": await container.database.async_(),
        }
        check(EMBEDDED, parts)


async def test_each_changed_setting_arrives_at_the_clients_of_servers(tmp_path: Path) -> None:
    container = container_of(tmp_path, SERVERS, NOWHERE)
    parts = {name: getattr(container, name).args[1]() for name in ("database", "broker", "shared")}
    check(SERVERS, parts)
    for part in parts.values():
        await part.close()
