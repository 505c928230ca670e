"""Published envelopes are the bytes that the driver would send, and their confirms end what waits for them."""

import asyncio
from collections import OrderedDict

import attrs
import pamqp.frame
import pytest
from aio_pika.exceptions import ChannelInvalidStateError, DeliveryError
from aiormq.abc import ChannelFrame
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from chatflow.adapters.rabbitmq.compat import DirectPublisher
from chatflow.adapters.rabbitmq.frame_cutter import FrameCutter
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute

NUMBER = 3


@attrs.define
class Channel:
    """What `DirectPublisher` uses of the driver's channel."""

    number: int = NUMBER
    max_content_size: int = 100
    publisher_confirms: bool = True
    is_closed: bool = False
    delivery_tag: int = 0
    confirmations: OrderedDict = attrs.field(factory=OrderedDict)
    message_id_delivery_tag: dict = attrs.field(factory=dict)

    def create_future(self):
        return asyncio.get_running_loop().create_future()


class Wire:
    """A channel over a socket whose both ends are the test's."""

    def __init__(self, **options):
        self.sent, self.passed = [], b""
        self.channel = Channel(**options)
        self.publisher = DirectPublisher(self.channel, self.sent.append)
        self.cutter = FrameCutter(self.pass_on)
        self.cutter.on_confirm(NUMBER, self.publisher.confirm)

    def pass_on(self, data):
        self.passed += data

    def publish(self, count=1):
        return [self.publisher.publish(ROUTE, b"[]") for _ in range(count)]

    def server_says(self, *frames, channel=NUMBER):
        data = b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)
        self.cutter.feed(data, 0.0)
        return data


ROUTE = PublishRoute("chatflow.ingest", "7", content_type="application/json", mode=2, headers={"v": 1}, mandatory=True)
short = st.text(max_size=60).filter(lambda text: len(text.encode()) < 256)
names = st.text("abcXYZ019-_.:", max_size=60)
routes = st.builds(
    PublishRoute,
    names,
    short,
    content_type=short.filter(bool),
    mode=st.sampled_from([1, 2]),
    headers=st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 2**31) | st.text(max_size=8), max_size=3),
    mandatory=st.booleans(),
)


@given(route=routes, tag=st.integers(1, 2**63), body=st.binary(max_size=300), longest=st.integers(1, 200))
def test_the_frames_are_those_of_the_driver(route: PublishRoute, tag: int, body: bytes, longest: int) -> None:
    properties = commands.Basic.Properties(
        content_type=route.content_type, delivery_mode=route.mode, headers=route.headers, message_id=str(tag)
    )
    publish = commands.Basic.Publish(exchange=route.exchange, routing_key=route.key, mandatory=route.mandatory)
    pieces = [ContentBody(body[start : start + longest]) for start in range(0, len(body), longest)]
    frames = [publish, ContentHeader(0, len(body), properties), *pieces]
    expected = ChannelFrame.marshall(channel_number=NUMBER, frames=frames).payload
    assert route.frames(NUMBER, str(tag), body, longest) == expected


async def test_an_ack_ends_what_waits_for_it():
    wire = Wire()
    first, second = wire.publish(2)
    wire.server_says(commands.Basic.Ack(1))
    assert (first.done(), second.done()) == (True, False)
    wire.server_says(commands.Basic.Ack(2))
    assert await first is None
    assert await second is None
    assert not wire.channel.confirmations
    assert not wire.channel.message_id_delivery_tag
    assert wire.passed == b""


async def test_one_ack_may_answer_many_and_those_that_come_later_are_left():
    wire = Wire()
    futures = wire.publish(5)
    wire.server_says(commands.Basic.Ack(4, multiple=True))
    assert [future.done() for future in futures] == [True] * 4 + [False]
    wire.server_says(commands.Basic.Ack(5, multiple=True))
    await asyncio.gather(*futures)


async def test_a_nack_is_told_and_an_ack_of_all_up_to_a_later_one_does_not_undo_it():
    wire = Wire()
    futures = wire.publish(3)
    wire.server_says(commands.Basic.Nack(2, requeue=False), commands.Basic.Ack(3, multiple=True))
    with pytest.raises(DeliveryError):
        await futures[1]
    await asyncio.gather(futures[0], futures[2])


async def test_nacks_of_many_are_told_to_each():
    wire = Wire()
    futures = wire.publish(3)
    wire.server_says(commands.Basic.Nack(2, multiple=True, requeue=False))
    for future in futures[:2]:
        with pytest.raises(DeliveryError):
            await future
    assert not futures[2].done()


async def test_who_waits_no_more_and_what_was_never_published_are_passed_over():
    wire = Wire()
    futures = wire.publish(2)
    futures[0].cancel()
    wire.server_says(commands.Basic.Ack(9), commands.Basic.Ack(1), commands.Basic.Ack(1), commands.Basic.Ack(2))
    assert await futures[1] is None
    assert not wire.channel.confirmations


async def test_after_a_return_every_confirm_of_the_channel_is_the_drivers():
    wire = Wire()
    returned = commands.Basic.Return(312, "NO_ROUTE", "chatflow.ingest", "7")
    header = ContentHeader(0, 2, commands.Basic.Properties(message_id="1"))
    wire.publish(2)
    said = wire.server_says(returned, header, ContentBody(b"[]"), commands.Basic.Ack(2, multiple=True))
    assert wire.passed == said
    assert list(wire.channel.confirmations) == [1, 2]
    assert wire.channel.message_id_delivery_tag == {"1": 1, "2": 2}


async def test_the_confirms_of_other_channels_are_the_drivers():
    wire = Wire()
    wire.publish(1)
    assert wire.server_says(commands.Basic.Ack(1), channel=NUMBER + 1) == wire.passed
    assert wire.channel.confirmations


async def test_a_channel_that_ends_is_forgotten():
    wire = Wire()
    wire.publish(1)
    said = wire.server_says(commands.Channel.Close(404, "NOT_FOUND", 60, 40), commands.Basic.Ack(1))
    assert wire.passed == said
    assert wire.channel.confirmations


async def test_what_cannot_be_written_leaves_no_trace():
    wire = Wire()

    def broken(_):
        raise ConnectionResetError

    wire.publisher.write = broken
    with pytest.raises(ConnectionResetError):
        wire.publish(1)
    assert (wire.channel.delivery_tag, len(wire.channel.confirmations)) == (0, 0)


async def test_nothing_is_written_to_a_closed_channel():
    wire = Wire(is_closed=True)
    with pytest.raises(ChannelInvalidStateError):
        wire.publish(1)
    assert not wire.sent


async def test_without_confirms_nothing_is_waited_for():
    wire = Wire(publisher_confirms=False)
    assert wire.publish(2) == [None, None]
    assert not wire.channel.confirmations
