import asyncio
from pathlib import Path

import pytest

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.adapters.memory.broker_socket import BrokerSocketServer, connect_broker_socket
from chatflow.domain.messages.rooms import partition_of
from chatflow.ports.broker import envelope_of
from chatflow.ports.errors import BrokerFull, BrokerUnavailable
from tests.unit.fakes import messages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.sock"


async def serving(broker: MemoryBroker, path: Path) -> BrokerSocketServer:
    server = BrokerSocketServer(broker, broker.partitions, path)
    await server.start()
    return server


async def test_a_publish_is_confirmed_when_its_consumer_has_acked_it_in_the_partition_of_its_room(path: Path) -> None:
    broker = MemoryBroker(partitions=8)
    server = await serving(broker, path)
    socket = await connect_broker_socket(path)
    sent = tuple(messages(1, 2))
    publish = asyncio.create_task(socket.publish(envelope_of(0, sent)))
    consumer = await broker.consume(partition_of("lobby", 8), prefetch=1)
    delivery = await consumer.receive()
    assert delivery.envelope.messages == sent
    assert not publish.done()
    await consumer.ack(delivery)
    await publish
    await socket.close()
    await server.close()


async def test_a_refusal_is_the_same_error_on_this_side(path: Path) -> None:
    server = await serving(MemoryBroker(partitions=1, limit_bytes=1), path)
    socket = await connect_broker_socket(path)
    with pytest.raises(BrokerFull):
        await socket.publish(envelope_of(0, messages(1, 1)))
    await server.close()
    with pytest.raises(BrokerUnavailable):
        await socket.publish(envelope_of(0, messages(1, 1)))
    await socket.close()


async def test_only_the_owner_may_connect_and_nobody_once_it_is_closed(path: Path) -> None:
    server = await serving(MemoryBroker(partitions=1), path)
    assert path.stat().st_mode & 0o777 == 0o600
    await server.close()
    assert not path.exists()
    assert await connect_broker_socket(path) is None


async def test_a_socket_that_a_killed_process_left_is_taken_over(path: Path) -> None:
    killed = await serving(MemoryBroker(partitions=1), path)
    server = await serving(MemoryBroker(partitions=1), path)
    socket = await connect_broker_socket(path)
    assert socket is not None
    await socket.close()
    await server.close()
    await killed.close()
