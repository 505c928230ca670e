"""Whether the fast path may be used is found out at start, and what is no driver's failure is not hidden."""

import asyncio

import pytest
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError, DeliveryError
from aiormq import spec
from pamqp.header import ContentHeader
from structlog.testing import capture_logs

from chatflow.adapters.rabbitmq import compat
from chatflow.adapters.rabbitmq.broker import open_broker
from chatflow.adapters.rabbitmq.compat import CHECKS, DirectConnection, connection_class
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.public_connection import PublicConnection
from chatflow.domain.resilience.self_check import failed_checks
from chatflow.ports.errors import BrokerFull, BrokerUnavailable


class Renamed:
    """A class whose methods use none of the names that the adapter touches."""

    def __init__(self):
        pass

    def method(self, *_):
        raise NotImplementedError

    basic_publish = _on_return_frame = connect = ready = data_received = eof_received = method


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    compat._warn_once.cache_clear()


def test_the_locked_driver_passes_every_check():
    assert failed_checks(CHECKS) == []
    with capture_logs() as logs:
        assert connection_class() is DirectConnection
    assert logs == []


@pytest.mark.parametrize(
    ("owner", "name", "replacement", "number"),
    [
        (compat.aiormq, "Channel", Renamed, 0),
        (compat.aiormq, "Connection", Renamed, 1),
        (compat.aio_pika, "Connection", Renamed, 1),
        (compat.asyncio, "StreamReaderProtocol", Renamed, 2),
        (compat.aiormq.Connection.ready, "__code__", Renamed.method.__code__, 3),
        (compat.PublishRoute, "frames", lambda *_: b"", 4),
        (compat.spec.Basic.Deliver, "marshal", lambda _: b"", 5),
    ],
)
def test_a_driver_that_has_changed_fails_the_check_of_what_it_changed(monkeypatch, owner, name, replacement, number):
    monkeypatch.setattr(owner, name, replacement)
    assert failed_checks(CHECKS) == [list(CHECKS)[number]]


async def test_a_broker_over_a_changed_driver_falls_back_with_one_warning(monkeypatch):
    monkeypatch.setattr(compat, "CHECKS", {"holds": lambda: True, "is gone": lambda: False})
    with capture_logs() as logs:
        broker = open_broker(["amqp://nowhere"], partitions=1, queue_limit_bytes=1)
    assert [(entry["log_level"], entry["failed"]) for entry in logs] == [("warning", ["is gone"])]
    links = (broker.publishing, broker.consuming)
    assert [link.connection_class for link in links] == [PublicConnection] * 2


async def test_the_setting_forces_the_fallback_with_one_warning():
    with capture_logs() as logs:
        for _ in range(2):
            broker = open_broker(["amqp://nowhere"], partitions=1, queue_limit_bytes=1, driver_fallback=True)
    assert len(logs) == 1
    assert broker.publishing.connection_class is PublicConnection


@pytest.mark.parametrize("bug", [TypeError("a bug"), AttributeError("a bug"), KeyError("a bug"), ValueError("a bug")])
def test_a_bug_stays_what_it_is(bug):
    with pytest.raises(type(bug)), translated("publish"):
        raise bug


@pytest.mark.parametrize(
    "error",
    [
        AMQPConnectionError("gone"),
        ChannelInvalidStateError("closed"),
        ConnectionResetError(),
        asyncio.IncompleteReadError(b"", 7),
        TimeoutError(),
        Exception(),
    ],
)
def test_a_failure_of_the_driver_is_unavailable(error):
    with pytest.raises(BrokerUnavailable), translated("publish"):
        raise error


def test_a_nack_is_a_full_queue():
    with pytest.raises(BrokerFull), translated("publish"):
        raise DeliveryError(None, spec.Basic.Nack(delivery_tag=1))


async def test_the_fallback_ends_a_stream_whose_deliveries_come_out_of_order():
    connection = PublicConnection(compat.URL("amqp://nowhere"), on_blocked=lambda _: None)
    channel, taken, gaps = Channel(), [], []
    await connection.consume(channel, "queue", taken.append, gaps.append)
    for tag in (1, 2, 4):
        await channel.deliver(Message(tag))
    assert [delivery.tag for delivery in taken] == [1, 2]
    assert gaps == ["delivery 4 came after 2"]
    await connection.close()


class Channel:
    """What `consume` uses of a channel."""

    async def basic_consume(self, queue, deliver, *, no_ack):
        self.deliver = deliver


class Message:
    """A delivery as aiormq has it."""

    body = b"[]"
    header = ContentHeader(0, 2, spec.Basic.Properties(headers={"v": 1}))

    def __init__(self, tag):
        self.delivery = spec.Basic.Deliver("ctag", tag, redelivered=False, exchange="", routing_key="7")
