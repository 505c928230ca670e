"""The bytes that a server sends are either delivered or passed on to the driver, whole and in order."""

import itertools
import struct
from collections.abc import Iterable

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from chatflow.adapters.rabbitmq import frame_cutter
from chatflow.adapters.rabbitmq.frame_cutter import SIGN_OF_LIFE, FrameCutter, RawDelivery

OURS, ALSO_OURS, THEIRS = 1, 2, 3
HEADERS = {"chatflow-schema": 1}
QOS_OK = commands.Basic.QosOk()


class Driver:
    """What it is given, and what was taken before it."""

    def __init__(self, *ours: int) -> None:
        self.passed = b""
        self.taken: list[tuple[int, RawDelivery]] = []
        self.cutter = FrameCutter(self.pass_on)
        for channel in ours or (OURS,):
            self.take(channel)

    def take(self, channel: int) -> None:
        self.cutter.on_delivery(channel, lambda delivered: self.taken.append((channel, delivered)))

    def pass_on(self, data: bytes) -> None:
        assert data
        self.passed += data

    def feed(self, *chunks: bytes, now: float = 0.0) -> None:
        for chunk in chunks:
            self.cutter.feed(chunk, now)

    @property
    def bodies(self) -> list[bytes]:
        return [delivered.body for _, delivered in self.taken]


def content(channel: int, *parts: bytes, headers: dict | None = HEADERS, **properties: object) -> list[bytes]:
    header = ContentHeader(0, sum(map(len, parts)), commands.Basic.Properties(headers=headers, **properties))
    return [pamqp.frame.marshal(each, channel) for each in (header, *map(ContentBody, parts))]


def delivery(channel: int, *parts: bytes, tag: int = 1, **properties: object) -> list[bytes]:
    deliver = commands.Basic.Deliver("ctag", tag, redelivered=False, exchange="chatflow.ingest", routing_key="7")
    return [pamqp.frame.marshal(deliver, channel), *content(channel, *parts, **properties)]


def method(channel: int, frame: pamqp.base.Frame = QOS_OK) -> bytes:
    return pamqp.frame.marshal(frame, channel)


def reference(frames: Iterable[bytes], ours: set[int]) -> tuple[bytes, list[tuple[int, RawDelivery]]]:
    """The same with the driver's own parser: what is passed on, and what is delivered."""
    passed, taken, under_way = b"", [], {}
    for raw in frames:
        _, channel, frame = pamqp.frame.unmarshal(raw)
        if channel not in ours or not (isinstance(frame, commands.Basic.Deliver) or channel in under_way):
            passed += raw
            continue
        under_way.setdefault(channel, []).append(frame)
        deliver, *rest = under_way[channel]
        body = b"".join(each.value for each in rest[1:])
        if rest and len(body) == rest[0].body_size:
            headers = rest[0].properties.headers or {}
            taken.append(
                (channel, RawDelivery(deliver.delivery_tag, deliver.redelivered, deliver.routing_key, headers, body))
            )
            del under_way[channel]
    return passed, taken


names = st.text(max_size=20)
exchanges = st.sampled_from(["", "chatflow.live"])
tables = st.none() | st.dictionaries(
    st.text(min_size=1, max_size=8), st.integers(-(2**31), 2**31) | st.text(max_size=8) | st.booleans(), max_size=3
)


@st.composite
def delivered_frames(draw: st.DrawFn, channel: int) -> list[bytes]:
    deliver = commands.Basic.Deliver(
        draw(names), draw(st.integers(0, 2**63 - 1)), draw(st.booleans()), draw(exchanges), draw(names)
    )
    parts = draw(st.lists(st.binary(min_size=1, max_size=30) | st.just(b"\xce" * 9), max_size=3))
    properties = {
        "content_type": draw(st.none() | names),
        "content_encoding": draw(st.none() | names),
        "delivery_mode": draw(st.none() | st.just(2)),
        "message_id": draw(st.none() | names),
    }
    return [pamqp.frame.marshal(deliver, channel), *content(channel, *parts, headers=draw(tables), **properties)]


@st.composite
def channel_frames(draw: st.DrawFn, channel: int) -> list[bytes]:
    other = st.sampled_from([commands.Basic.QosOk(), commands.Basic.Cancel("ctag"), commands.Basic.ConsumeOk("ctag")])
    got = st.just(
        [
            method(channel, commands.Basic.GetOk(5, exchange="", routing_key="7", message_count=0)),
            *content(channel, b"got"),
        ]
    )
    runs = st.lists(delivered_frames(channel) | got | st.builds(lambda f: [method(channel, f)], other), max_size=4)
    return [frame for run in draw(runs) for frame in run]


@st.composite
def interleaved(draw: st.DrawFn) -> list[bytes]:
    """Frames of several channels, each channel's in order."""
    left = [draw(channel_frames(channel)) for channel in (OURS, ALSO_OURS, THEIRS)]
    left.append([Heartbeat().marshal()] * draw(st.integers(0, 2)))
    frames = []
    while left := [each for each in left if each]:
        frames.append(draw(st.sampled_from(left)).pop(0))
    return frames


@given(frames=interleaved(), data=st.data())
def test_every_byte_is_delivered_or_passed_on_however_it_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    driver = Driver(OURS, ALSO_OURS)
    driver.feed(*(stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])))
    assert (driver.passed, driver.taken) == reference(frames, {OURS, ALSO_OURS})


def test_a_delivery_is_what_the_server_sent() -> None:
    driver = Driver()
    driver.feed(b"".join(delivery(OURS, b"[1]", tag=9, content_type="application/json", delivery_mode=2)))
    assert driver.taken == [(OURS, RawDelivery(9, redelivered=False, routing_key="7", headers=HEADERS, body=b"[1]"))]
    assert driver.passed == b""


@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"two", b"three")], ids=len)
def test_a_stream_may_be_split_anywhere(parts: tuple[bytes, ...]) -> None:
    frames = [method(OURS), *delivery(OURS, *parts), method(THEIRS), *delivery(OURS, b"next"), Heartbeat().marshal()]
    stream = b"".join(frames)
    for at in range(len(stream) + 1):
        driver = Driver()
        driver.feed(stream[:at], stream[at:])
        assert driver.bodies == [b"".join(parts), b"next"]
        assert driver.passed == method(OURS) + method(THEIRS) + Heartbeat().marshal()
    driver = Driver()
    driver.feed(*(stream[at : at + 1] for at in range(len(stream))))
    assert driver.bodies == [b"".join(parts), b"next"]


def test_other_channels_are_the_drivers() -> None:
    driver = Driver()
    stream = b"".join([*delivery(THEIRS, b"theirs"), method(0, commands.Connection.Blocked("disk"))])
    driver.feed(stream)
    assert (driver.passed, driver.taken) == (stream, [])


def test_what_came_before_a_channel_was_taken_is_the_drivers() -> None:
    driver = Driver()
    driver.feed(method(ALSO_OURS)[:5])
    driver.take(ALSO_OURS)
    driver.feed(method(ALSO_OURS)[5:] + b"".join(delivery(ALSO_OURS, b"first")))
    assert (driver.passed, driver.bodies) == (method(ALSO_OURS), [b"first"])


@pytest.mark.parametrize(
    "end", [commands.Channel.Close(406, "no", 0, 0), commands.Channel.CloseOk()], ids=["close", "close-ok"]
)
def test_a_closed_channels_number_may_belong_to_somebody_else(end: pamqp.base.Frame) -> None:
    driver = Driver()
    theirs = b"".join(delivery(OURS, b"theirs"))
    driver.feed(b"".join(delivery(OURS, b"ours")) + method(OURS, end) + theirs)
    assert driver.bodies == [b"ours"]
    assert driver.passed == method(OURS, end) + theirs


def broken_end(frame: bytes) -> bytes:
    return frame[:-1] + b"\x00"


@pytest.mark.parametrize(
    "nonsense",
    [
        broken_end(delivery(OURS, b"x")[2]),
        broken_end(method(THEIRS)),
        b"AMQP\x00\x00\x09\x01",
        struct.pack(">BHI", 1, OURS, 2**32 - 1) + b"so long",
    ],
)
def test_after_what_is_no_frame_everything_is_the_drivers(nonsense: bytes) -> None:
    driver = Driver()
    begun, later = b"".join(delivery(OURS, b"x")[:2]), b"".join(delivery(OURS, b"y"))
    driver.feed(b"".join(delivery(OURS, b"before")) + begun + nonsense)
    driver.feed(later[:9], later[9:])
    assert (driver.passed, driver.bodies) == (begun + nonsense + later, [b"before"])


def bad_header(flags: int, rest: bytes) -> bytes:
    payload = struct.pack(">HHQH", 60, 0, 1, flags) + rest
    return struct.pack(">BHI", 2, OURS, len(payload)) + payload + b"\xce"


DELIVER, HEADER, BODY = delivery(OURS, b"x")


@pytest.mark.parametrize(
    "frames",
    [
        [DELIVER, BODY],
        [DELIVER, DELIVER],
        [DELIVER, HEADER, HEADER],
        [DELIVER, HEADER, content(OURS, b"more than it said")[1]],
        [DELIVER, HEADER, method(OURS)],
        [DELIVER, bad_header(1 << 13, struct.pack(">I", 99) + b"short"), BODY],
        [DELIVER, bad_header(1 << 13, struct.pack(">I", 3) + b"\x01ke"), BODY],
        [DELIVER, bad_header(1 << 13, b"\x00"), BODY],
        [DELIVER, bad_header(1 << 15 | 1 << 13, b"\xff"), BODY],
        [DELIVER, bad_header(1, b""), BODY],
        [struct.pack(">BHI", 1, OURS, 5) + struct.pack(">HHB", 60, 60, 200) + b"\xce", HEADER, BODY],
        [DELIVER[:-3] + b"\x09" + DELIVER[-2:], HEADER, BODY],
        [DELIVER[:-2] + b"\xff" + DELIVER[-1:], HEADER, BODY],
    ],
)
def test_a_delivery_that_makes_no_sense_leaves_its_channel_to_the_driver(frames: list[bytes]) -> None:
    driver = Driver(OURS, ALSO_OURS)
    later = b"".join(delivery(OURS, b"later"))
    driver.feed(b"".join(delivery(OURS, b"before") + frames) + later + b"".join(delivery(ALSO_OURS, b"other")))
    assert driver.passed == b"".join(frames) + later
    assert driver.bodies == [b"before", b"other"]


def test_the_driver_hears_a_sign_of_life_while_there_are_only_deliveries() -> None:
    driver = Driver()
    one = b"".join(delivery(OURS, b"x"))
    driver.feed(method(OURS), now=100.0)
    driver.feed(one, now=100.9)
    assert driver.passed == method(OURS)
    driver.feed(one, now=101.0)
    driver.feed(one, now=101.9)
    assert driver.passed == method(OURS) + SIGN_OF_LIFE
    driver.feed(one + method(OURS), now=102.5)
    driver.feed(one, now=103.0)
    assert driver.passed == method(OURS) + SIGN_OF_LIFE + method(OURS)
    assert isinstance(pamqp.frame.unmarshal(SIGN_OF_LIFE)[2], Heartbeat)


def test_no_sign_of_life_comes_before_the_server_has_greeted() -> None:
    driver = Driver()
    driver.feed(method(0)[:5], now=100.0)
    driver.feed(method(0)[5:9], now=200.0)
    assert driver.passed == b""


def test_a_frame_that_breaks_off_is_shown_to_the_driver() -> None:
    driver = Driver()
    driver.feed(method(OURS)[:9])
    driver.cutter.end()
    driver.cutter.end()
    assert driver.passed == method(OURS)[:9]


def test_few_tables_are_remembered() -> None:
    driver = Driver()
    for n in range(3 * frame_cutter.KNOWN_TABLES):
        driver.feed(b"".join(delivery(OURS, b"x", headers={"n": n})))
        assert driver.taken[-1][1].headers == {"n": n}
    assert frame_cutter._table.cache_info().currsize == frame_cutter.KNOWN_TABLES
