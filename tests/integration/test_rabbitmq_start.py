"""What a role finds when it starts: nothing, what it needs, something else, or no server."""

import asyncio
from typing import Any, Self

import pytest
from aio_pika.exceptions import ChannelNotFoundEntity

from chatflow.adapters.rabbitmq.broker import open_broker
from chatflow.adapters.rabbitmq.topology import DurableQueue, existing_of
from chatflow.ports.errors import BrokerMisconfigured, BrokerUnavailable
from tests.harness.rabbit import RabbitServer
from tests.integration.rabbitmq_cases import numbers, raw_channel, receive, running
from tests.unit.fakes import cancel, envelope


def vhost_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


async def parts_of(server: RabbitServer, url: str) -> tuple[set[str], set[str]]:
    """Names of queues and of chatflow's exchanges."""
    exchanges = await asyncio.to_thread(server.api, "GET", f"exchanges/{vhost_of(url)}")
    queues = await asyncio.to_thread(server.queues, vhost_of(url))
    return set(queues), {each["name"] for each in exchanges if each["name"].startswith("chatflow")}


async def refused(url: str, **settings: Any) -> BrokerMisconfigured:
    broker = open_broker([url], **({"partitions": 4, "queue_limit_bytes": 2**24} | settings))
    with pytest.raises(BrokerMisconfigured) as error:
        await broker.open()
    assert not error.value.retryable
    assert not broker.publishing.is_up
    return error.value


async def test_the_first_start_declares_durable_bounded_quorum_queues(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with running(vhost_url, partitions=2, queue_limit_bytes=12_345, delivery_limit=7):
        queues = await asyncio.to_thread(rabbit_server.queues, vhost_of(vhost_url))
    assert set(queues) == {"chatflow.ingest.0", "chatflow.ingest.1", "chatflow.dead", "chatflow.partitions"}
    assert all(queue.type == "quorum" and queue.durable for queue in queues.values())
    assert queues["chatflow.ingest.1"].arguments == {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-overflow": "reject-publish",
        "x-max-length-bytes": 12_345,
        "x-delivery-limit": 7,
        "x-dead-letter-exchange": "chatflow.dead",
    }
    assert "x-max-length-bytes" not in queues["chatflow.dead"].arguments


async def test_a_second_start_finds_everything_and_keeps_what_waits(vhost_url: str) -> None:
    async with running(vhost_url) as broker:
        await broker.publish(envelope(1, 1))
    async with running(vhost_url) as broker, running(vhost_url):
        consumer = await broker.consume(0, prefetch=10)
        assert numbers(await receive(consumer, 1)) == [1]


@pytest.mark.parametrize("partitions", [1, 3, 5, 16])
async def test_another_number_of_partitions_is_refused(
    rabbit_server: RabbitServer, vhost_url: str, partitions: int
) -> None:
    async with running(vhost_url):
        before = await parts_of(rabbit_server, vhost_url)
    error = await refused(vhost_url, partitions=partitions)
    assert f"set up for 4 partitions, not {partitions}" in str(error)
    assert await parts_of(rabbit_server, vhost_url) == before


async def test_more_partitions_are_noticed_even_without_the_record(vhost_url: str) -> None:
    async with running(vhost_url):
        pass
    async with raw_channel(vhost_url) as channel:
        await channel.queue_delete("chatflow.partitions")
    assert "chatflow.ingest.2" in str(await refused(vhost_url, partitions=2))


async def test_of_two_that_start_with_different_numbers_one_wins(rabbit_server: RabbitServer, vhost_url: str) -> None:
    brokers = [open_broker([vhost_url], partitions=n, queue_limit_bytes=2**20) for n in (2, 3)]
    outcomes = await asyncio.gather(*(broker.open() for broker in brokers), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [BrokerMisconfigured]
    won = 2 if outcomes[0] is None else 3
    for broker in brokers:
        await broker.close()
    queues, _ = await parts_of(rabbit_server, vhost_url)
    assert queues == {"chatflow.dead", "chatflow.partitions", *(f"chatflow.ingest.{p}" for p in range(won))}


async def test_a_start_completes_what_another_one_left_half_done(rabbit_server: RabbitServer, vhost_url: str) -> None:
    async with running(vhost_url):
        whole = await parts_of(rabbit_server, vhost_url)
    async with raw_channel(vhost_url) as channel:
        for name in ("chatflow.ingest.2", "chatflow.ingest.3", "chatflow.dead"):
            await channel.queue_delete(name)
        await channel.exchange_delete("chatflow.ingest")
    async with running(vhost_url) as broker:
        assert await parts_of(rabbit_server, vhost_url) == whole
        for partition in range(4):
            await broker.publish(envelope(1, 1, partition=partition))


async def test_a_queue_of_another_type_is_refused_and_nothing_is_declared(
    rabbit_server: RabbitServer, vhost_url: str
) -> None:
    async with raw_channel(vhost_url) as channel:
        await channel.declare_queue("chatflow.ingest.3", durable=True, arguments={"x-queue-type": "classic"})
    error = await refused(vhost_url)
    assert len(error.differences) == 1
    assert "'chatflow.ingest.3'" in error.differences[0]
    assert await parts_of(rabbit_server, vhost_url) == ({"chatflow.ingest.3"}, set())


async def test_every_difference_is_named(vhost_url: str) -> None:
    async with running(vhost_url):
        pass
    error = await refused(vhost_url, queue_limit_bytes=2**25)
    assert len(error.differences) == 4
    assert all("x-max-length-bytes" in difference for difference in error.differences)


async def test_an_exchange_of_another_type_is_refused(rabbit_server: RabbitServer, vhost_url: str) -> None:
    async with raw_channel(vhost_url) as channel:
        await channel.declare_exchange("chatflow.live", "fanout", durable=True)
    assert "'chatflow.live'" in str(await refused(vhost_url))
    assert await parts_of(rabbit_server, vhost_url) == (set(), {"chatflow.live"})


async def test_a_wrong_password_and_a_missing_virtual_host_are_refused(vhost_url: str) -> None:
    assert "ACCESS_REFUSED" in str(await refused(vhost_url.replace("guest:guest", "guest:wrong")))
    assert "vhost nowhere not found" in str(await refused(vhost_url.rsplit("/", 1)[0] + "/nowhere"))


async def test_a_server_that_is_not_there_yet_is_unavailable_and_found_later(
    rabbit_server: RabbitServer, vhost_url: str, fault_proxy
) -> None:
    proxy = fault_proxy(vhost_url)
    broker = open_broker([proxy.url(vhost_url)], partitions=4, queue_limit_bytes=2**24)
    proxy.refuse()
    with pytest.raises(BrokerUnavailable):
        await broker.open()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(envelope(1, 1))
    proxy.heal()
    await broker.open()
    await broker.publish(envelope(1, 1))
    await broker.close()


async def test_a_server_that_accepts_and_says_nothing_is_unavailable(vhost_url: str, fault_proxy) -> None:
    proxy = fault_proxy(vhost_url)
    proxy.half_open()
    broker = open_broker([proxy.url(vhost_url)], partitions=4, queue_limit_bytes=2**24, connect_timeout_s=0.2)
    with pytest.raises(BrokerUnavailable):
        await broker.open()


async def test_what_speaks_another_protocol_is_unavailable(vhost_url: str) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        broker = open_broker([f"amqp://127.0.0.1:{port}/"], partitions=4, queue_limit_bytes=2**24)
        with pytest.raises(BrokerUnavailable):
            await broker.open()


async def test_the_next_node_is_tried_when_one_is_down(vhost_url: str, fault_proxy) -> None:
    proxy, other = fault_proxy(vhost_url), fault_proxy(vhost_url)
    proxy.refuse()
    async with running(proxy.url(vhost_url), other.url(vhost_url)) as broker:
        await broker.publish(envelope(1, 1))
        assert other.connections == 2
        proxy.heal()
        other.refuse()
        other.cut()
        async with asyncio.timeout(10):
            while proxy.connections < 2 or not broker.publishing.is_up:
                await asyncio.sleep(0.01)
        await broker.publish(envelope(2, 2))


class LosesCancellations:
    """A connection whose channel says that there is no such queue in place of a cancellation, as the driver may."""

    def channel(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def declare_queue(self, name: str, **_: object) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as exc:
            raise ChannelNotFoundEntity(f"NOT_FOUND - no queue '{name}'") from exc


async def test_a_look_at_what_is_there_can_be_cancelled() -> None:
    looking = asyncio.create_task(existing_of(LosesCancellations(), [DurableQueue("a", {}), DurableQueue("b", {})]))
    await asyncio.sleep(0)
    await cancel(looking)
    assert looking.cancelled()
