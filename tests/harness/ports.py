"""Ports for listeners that go away and come back.

The system hands out client ports from its ephemeral range, so a port of that range could be taken by any connection
while its listener is down, and a client that keeps knocking at it could even connect to itself. These come from below.
"""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 10_240
EPHEMERAL_FROM = 32_768
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nothing listens on; another one at each call."""
    while True:
        port = random.randrange(LOWEST, _ephemeral_from())
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _ephemeral_from() -> int:
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else EPHEMERAL_FROM
    return first if first > LOWEST + 1_000 else EPHEMERAL_FROM


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def answers(port: int, request: bytes, first_bytes: bytes, *, skip: int = 0, timeout_s: float = 1.0) -> bool:
    """Whether what listens on ``port`` answers ``request`` with ``first_bytes``, after ``skip`` other bytes."""
    wanted = skip + len(first_bytes)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
            connection.sendall(request)
            return connection.recv(wanted, socket.MSG_WAITALL)[skip:] == first_bytes
    except OSError:
        return False
