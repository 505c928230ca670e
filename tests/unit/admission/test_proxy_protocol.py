import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.admission.proxy_protocol import SIGNATURE, InvalidProxyHeader, ProxyHeader, read_proxy_header

GET = b"GET / HTTP/1.1\r\n"
V4 = socket.inet_aton("203.0.113.9") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4711, 8080)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::9") + bytes(16) + struct.pack("!HH", 4711, 8080)


def binary(command: int, family: int, payload: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(payload)) + payload


HEADERS = [
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 8080\r\n", "203.0.113.9"),
    (b"PROXY TCP6 2001:db8::9 ::1 4711 8080\r\n", "2001:db8::9"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    (binary(1, 0x11, V4), "203.0.113.9"),
    (binary(1, 0x11, V4 + b"\x03\x00\x04abcd"), "203.0.113.9"),
    (binary(1, 0x21, V6), "2001:db8::9"),
    (binary(0, 0x00, b""), ""),
    (binary(0, 0x11, V4), ""),
    (binary(1, 0x31, bytes(216)), ""),
]


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_the_client_is_whom_the_proxy_names(header, source):
    assert read_proxy_header(header + GET) == ProxyHeader(source, len(header))


@pytest.mark.parametrize(("header", "_"), HEADERS)
def test_a_header_that_comes_byte_by_byte_is_waited_for(header, _):
    assert [read_proxy_header(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        GET,
        b"\x16\x03\x01",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 999.0.0.1 10.0.0.1 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 200,
        binary(2, 0x11, V4),
        binary(1, 0x11, V4[:8]),
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(InvalidProxyHeader):
        read_proxy_header(data)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda tail: SIGNATURE + tail)))
def test_no_bytes_are_more_than_a_header_a_wait_or_a_refusal(data):
    try:
        header = read_proxy_header(data)
    except InvalidProxyHeader:
        return
    assert header is None or header.size <= len(data)
