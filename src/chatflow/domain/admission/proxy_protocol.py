"""The PROXY protocol, versions 1 and 2: a proxy names its client before the first byte of the connection.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

import ipaddress
import struct

import attrs

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LONGEST_LINE = 107
LONGEST_BINARY = 16 + 2048
"""Bytes; with more than two kilobytes of extensions a header is refused."""

_ADDRESS_BYTES = {1: 4, 2: 16}
_FIXED = struct.Struct("!12sBBH")


class InvalidProxyHeader(ValueError):
    """What a trusted proxy sent first is no PROXY header; the text says why."""


@attrs.frozen
class ProxyHeader:
    """What a proxy says of its connection.

    Attributes:
        source: the client's address; ``""``: the proxy speaks for itself, as in a health check, or does not know.
        size: bytes of the header; what follows is the client's.
    """

    source: str
    size: int


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that these bytes begin with; ``None``: more are needed.

    Raises:
        InvalidProxyHeader: they begin with something else.
    """
    if data[:12] == SIGNATURE[: len(data)]:
        return _read_binary(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_line(data)
    raise InvalidProxyHeader("a trusted proxy must begin with a PROXY header (CHATFLOW_PROXY_PROTOCOL is on)")


def take_proxy_header(head: bytearray) -> ProxyHeader | None:
    """Take the header off the first bytes of a connection; ``None``: it is not whole yet, and nothing is taken.

    Raises:
        InvalidProxyHeader: they begin with something else.
    """
    header = read_proxy_header(bytes(head[:LONGEST_BINARY]))
    if header is not None:
        del head[: header.size]
    return header


def _read_line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, LONGEST_LINE)
    if end < 0:
        if len(data) >= LONGEST_LINE:
            raise InvalidProxyHeader("a PROXY header that does not end")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader("", end + 2)
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"}:
        raise InvalidProxyHeader("a PROXY header of another form than version 1")
    try:
        source = ipaddress.IPv4Address(words[2]) if words[1] == "TCP4" else ipaddress.IPv6Address(words[2])
    except ValueError:
        raise InvalidProxyHeader("a PROXY header whose source is no address") from None
    return ProxyHeader(str(source), end + 2)


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, version_command, family_transport, length = _FIXED.unpack_from(data)
    size, command = _FIXED.size + length, version_command & 15
    if version_command >> 4 != 2 or command > 1 or size > LONGEST_BINARY:
        raise InvalidProxyHeader("a PROXY header of another form than version 2")
    if len(data) < size:
        return None
    width = _ADDRESS_BYTES.get(family_transport >> 4, 0)
    if command == 0 or not width:
        return ProxyHeader("", size)
    if length < 2 * width + 4:
        raise InvalidProxyHeader("a PROXY header too short for its addresses")
    source = data[_FIXED.size : _FIXED.size + width]
    return ProxyHeader(str(ipaddress.ip_address(source)), size)
