"""Our frames against the driver's own, for the self-check at start."""

import pamqp.body
import pamqp.frame
import pamqp.header
from aiormq import spec
from aiormq.abc import ChannelFrame
from pamqp.base import Frame

from chatflow.adapters.rabbitmq.frame_cutter import RawDelivery, parse
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute

Part = Frame | pamqp.header.ContentHeader | pamqp.body.ContentBody


def publishes_as_the_driver() -> bool:
    """Whether aiormq would send the same bytes for a publish."""
    route = PublishRoute("exchange", "7", content_type="text/plain", mode=2, headers={"v": 1}, mandatory=True)
    properties = spec.Basic.Properties(content_type="text/plain", delivery_mode=2, headers={"v": 1}, message_id="9")
    publish = spec.Basic.Publish(exchange="exchange", routing_key="7", mandatory=True)
    frames: list[Part] = [
        publish,
        pamqp.header.ContentHeader(0, 2, properties),
        pamqp.body.ContentBody(b"[]"),
    ]
    return route.frames(3, "9", b"[]", 100) == ChannelFrame.marshall(channel_number=3, frames=frames).payload


def delivers_as_the_driver() -> bool:
    """Whether a delivery that pamqp has encoded is read as it was meant."""
    properties = spec.Basic.Properties(content_type="text/plain", headers={"v": 1})
    frames: list[Part] = [
        spec.Basic.Deliver("tag", 9, redelivered=True, exchange="exchange", routing_key="7"),
        pamqp.header.ContentHeader(0, 2, properties),
        pamqp.body.ContentBody(b"[]"),
    ]
    expected = RawDelivery(9, redelivered=True, routing_key="7", headers={"v": 1}, body=b"[]")
    return parse([pamqp.frame.marshal(frame, 3) for frame in frames]) == expected
