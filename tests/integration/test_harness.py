"""The private servers do to raw clients what the fault tests rely on, and leave nothing behind."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import asyncmy
import psutil
import pytest
import redis.asyncio
from aio_pika.connection import make_url as make_amqp_url
from asyncmy.errors import OperationalError
from sqlalchemy.engine import make_url

from tests.harness import Guard, MariaServer, RabbitServer, RedisServer, ServerFailed
from tests.harness.pausing import thread_states
from tests.harness.waiting import eventually

PATIENCE_S = 10.0
# One worker, one set of servers.


def processes_below(directory: object) -> list[str]:
    """Command lines of the live processes that name ``directory``, or run in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and str(directory) in f"{line} {process.cwd()}":
                found.append(line)
    return found


@contextlib.asynccontextmanager
async def maria_connection(url: str) -> AsyncIterator[Any]:
    parts = make_url(url)
    connection = await asyncmy.connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password, database=parts.database
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(Exception):
            connection.close()


async def query(url: str, statement: str) -> Any:
    async with maria_connection(url) as connection, connection.cursor() as cursor:
        await cursor.execute(statement)
        rows = await cursor.fetchall()
        await connection.commit()
        return rows


async def test_what_maria_committed_survives_a_kill(maria_server: MariaServer, maria_url: str) -> None:
    await query(maria_url, "CREATE TABLE kept (n INT PRIMARY KEY) ENGINE=InnoDB")
    await query(maria_url, "INSERT INTO kept VALUES (1), (2)")
    maria_server.kill()
    with pytest.raises(OperationalError):
        await query(maria_url, "SELECT 1")
    await asyncio.to_thread(maria_server.restart)
    assert list(await query(maria_url, "SELECT n FROM kept ORDER BY n")) == [(1,), (2,)]


async def test_a_paused_maria_keeps_its_connections_and_answers_after_resume(
    maria_server: MariaServer, maria_url: str
) -> None:
    async with maria_connection(maria_url) as connection, connection.cursor() as cursor:
        maria_server.pause()
        try:
            asked = asyncio.create_task(cursor.execute("SELECT 7"))
            done, _ = await asyncio.wait([asked], timeout=0.3)
            assert not done
        finally:
            maria_server.resume()
        await asyncio.wait_for(asked, PATIENCE_S)
        assert list(await cursor.fetchall()) == [(7,)]


async def test_nothing_of_a_paused_server_runs_any_more(maria_server: MariaServer) -> None:
    maria_server.make_ready()
    for _ in range(100):
        try:
            maria_server.pause()
            assert set(thread_states(maria_server.pid)) == {"T"}
        finally:
            maria_server.resume()


async def test_a_read_only_maria_refuses_writes_until_it_is_asked_again(
    maria_server: MariaServer, maria_url: str
) -> None:
    await query(maria_url, "CREATE TABLE kept (n INT PRIMARY KEY)")
    maria_server.read_only(on=True)
    with pytest.raises(OperationalError) as refused:
        await query(maria_url, "INSERT INTO kept VALUES (1)")
    assert refused.value.args[0] == 1290
    maria_server.read_only(on=False)
    await query(maria_url, "INSERT INTO kept VALUES (1)")


async def test_each_test_gets_an_empty_database_with_durable_commits(maria_url: str) -> None:
    assert list(await query(maria_url, "SHOW TABLES")) == []
    settings = "@@innodb_flush_log_at_trx_commit, @@character_set_server, @@performance_schema"
    assert list(await query(maria_url, f"SELECT {settings}")) == [(1, "utf8mb4", 0)]


async def send_confirmed(url: str, queue: str, bodies: list[bytes], arguments: dict[str, Any]) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(queue, durable=True, arguments=arguments)
        for body in bodies:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue, mandatory=True, timeout=PATIENCE_S)


async def received(url: str, queue: str, count: int) -> list[bytes]:
    connection = await aio_pika.connect(url)
    async with connection, asyncio.timeout(PATIENCE_S):
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        bodies: list[bytes] = []
        async with declared.iterator() as messages:
            async for message in messages:
                bodies.append(message.body)
                await message.ack()
                if len(bodies) == count:
                    break
        return bodies


async def test_rabbit_runs_with_the_configuration_that_is_recommended(rabbit_server: RabbitServer) -> None:
    said = await asyncio.to_thread(
        rabbit_server.ctl, "eval", "maps:get(wal_write_strategy, ra_system:default_config())."
    )
    assert said.strip() == "o_sync"


async def test_what_rabbit_confirmed_survives_a_kill(rabbit_server: RabbitServer, vhost_url: str) -> None:
    quorum = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    await send_confirmed(vhost_url, "kept", [b"1", b"2", b"3"], quorum)
    vhost = vhost_url.rpartition("/")[2]
    await eventually(lambda: rabbit_server.queues(vhost)["kept"].messages == 3, "the queue's count")
    kept = rabbit_server.queues(vhost)["kept"]
    assert (kept.type, kept.durable, kept.arguments) == ("quorum", True, quorum)
    await asyncio.to_thread(rabbit_server.settle)
    assert any("epmd" in line for line in processes_below(rabbit_server.directory))
    rabbit_server.kill()
    await eventually(lambda: not processes_below(rabbit_server.directory), "helpers of RabbitMQ are left")
    refused = aio_pika.Connection(make_amqp_url(vhost_url))
    with pytest.raises(OSError):
        await refused.connect()
    await refused.close()  # or its finalizer starts a task, in whatever thread collects garbage
    await asyncio.to_thread(rabbit_server.restart)
    assert await received(vhost_url, "kept", 3) == [b"1", b"2", b"3"]


async def test_a_memory_alarm_blocks_publishers_until_it_is_over(rabbit_server: RabbitServer, vhost_url: str) -> None:
    connection = await aio_pika.connect(vhost_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("q")
        await asyncio.to_thread(rabbit_server.memory_alarm, on=True)
        publish = channel.default_exchange.publish(aio_pika.Message(b"late"), "q")
        published = asyncio.create_task(publish)
        done, _ = await asyncio.wait([published], timeout=0.3)
        assert not done
        await asyncio.to_thread(rabbit_server.memory_alarm, on=False)
        await asyncio.wait_for(published, PATIENCE_S)


async def test_a_paused_rabbit_confirms_after_resume(rabbit_server: RabbitServer, vhost_url: str) -> None:
    connection = await aio_pika.connect(vhost_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("q")
        rabbit_server.pause()
        await asyncio.sleep(0.2)  # the signal has reached the process, but not yet each of its threads
        try:
            published = asyncio.create_task(channel.default_exchange.publish(aio_pika.Message(b"late"), "q"))
            done, _ = await asyncio.wait([published], timeout=0.3)
            assert not done
        finally:
            rabbit_server.resume()
        await asyncio.wait_for(published, PATIENCE_S)


async def test_each_test_gets_an_empty_virtual_host(rabbit_server: RabbitServer, vhost_url: str) -> None:
    assert rabbit_server.queues(vhost_url.rpartition("/")[2]) == {}


async def test_a_killed_redis_comes_back_empty_on_its_port(redis_server: RedisServer, redis_url: str) -> None:
    async with redis.asyncio.from_url(redis_url) as client:
        await client.set("k", "v")
        redis_server.kill()
        with pytest.raises(redis.asyncio.ConnectionError):
            await client.get("k")
        await asyncio.to_thread(redis_server.restart)
        assert await client.get("k") is None


async def test_a_paused_redis_times_clients_out(redis_server: RedisServer, redis_url: str) -> None:
    async with redis.asyncio.from_url(redis_url, socket_timeout=0.2, retry=None) as client:
        redis_server.pause()
        try:
            with pytest.raises(redis.asyncio.TimeoutError):
                await client.ping()
        finally:
            redis_server.resume()
        assert await client.ping()


def test_servers_run_side_by_side_and_leave_nothing_behind() -> None:
    with Guard() as guard:
        servers = [MariaServer(guard), MariaServer(guard), RedisServer(guard), RedisServer(guard)]
        for server in servers:
            server.start()
        for server in servers:
            server.ready()
        assert len({server.port for server in servers}) == len(servers)
        assert len(processes_below(guard.directory)) >= len(servers)
        servers[0].stop()
        assert not servers[0].is_running
        assert servers[1].is_running
        for server in servers[1:3]:
            server.kill()
        # The last one is left to the guard.
    assert processes_below(guard.directory) == []
    assert not guard.directory.exists()
    servers[-1].kill()


def test_a_server_that_cannot_start_says_why(server_guard: Guard) -> None:
    server = RedisServer(server_guard)
    with socket.create_server(("127.0.0.1", server.port)):
        server.start()
        with pytest.raises(ServerFailed, match="Address already in use"):
            server.ready()
    server.restart()
    server.kill()


async def test_servers_do_not_outlive_tests_that_are_killed() -> None:
    program = (
        "from tests.harness import Guard, RedisServer\n"
        "server = RedisServer(Guard())\n"
        "server.start(); server.ready(); print(server.guard.directory, flush=True); input()"
    )
    tests = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    directory = tests.stdout.readline().strip()
    assert len(processes_below(directory)) >= 2
    tests.kill()
    tests.communicate()
    await eventually(lambda: not processes_below(directory), "a server lives on")
