"""A hostile client in its own process: sends prepared frames as fast as the gateway takes them.

It costs little: plain sockets, answers read and dropped, or never read. A connection that is closed is opened again
after a pause. Count and time are bounded. It says that it is ready, and begins when it is told to. It should run at the
lowest priority: polite clients are to feel what it does to the gateway, not the CPU that it takes itself.
"""

import argparse
import base64
import json
import math
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count

import attrs

CHUNK_BYTES = 2**17
COME_BACK_S = 0.1
STAY_S = 0.05
"""How long a connection of a reconnect storm stays."""
CONNECTIONS_MAX = 200
SECONDS_MAX = 120.0
MASK = bytes(4)
ROOMS = 20


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked frame (RFC 6455, section 5.2), with the zero key."""
    size = len(payload)
    head = (
        struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 254, size)
    )
    return head + MASK + payload


def to_json(value: object) -> bytes:
    """Without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def hello(number: int) -> bytes:
    """Each connection is a user of its own."""
    return to_json({"op": "hello", "userId": 6_600_000 + number, "username": "mallory"})


def ops(op: str, count: int, prefix: str = "", **fields: object) -> bytes:
    """A frame's payload of one operation in each of so many rooms."""
    return to_json([{"op": op, "room": f"{prefix}{at + 1}", **fields} for at in range(count)])


ZEROS = b"[" + b",".join([b"0"] * 8_190) + b"]"
BRACES = b"[" + b",".join([b"{}"] * 5_400) + b"]"
CHAT = to_json(
    {
        "userId": "66",
        "username": "mallory",
        "message": "x" * 80,
        "timestamp": "2026-11-24T01:31:00.123Z",
        "messageType": "TEXT",
    }
)
NESTED = b"[" * 8_000 + b"]" * 8_000


ID = "0192f0c0-0000-7000-8000-00000000{:04x}"
_fresh = count()


def sends(repeat: int = 1, **fields: object) -> bytes:
    """Frames of one send each, to every room in turn."""
    each = ({"op": "send", "ref": at, "room": str(at % ROOMS + 1), "text": "x" * 140, **fields} for at in range(repeat))
    return b"".join(frame(to_json(item)) for item in each)


def sends_to_new_rooms() -> bytes:
    """Sends to rooms that nobody has named before."""
    names = (f"new-{os.getpid()}-{next(_fresh)}" for _ in range(500))
    return b"".join(frame(to_json({"op": "send", "ref": 1, "room": name, "text": "x" * 140})) for name in names)


def sends_of_few_ids() -> bytes:
    """The same 16 messages again and again."""
    return b"".join(sends(id=ID.format(at)) for at in range(16))


@attrs.frozen
class Attack:
    """What one kind of hostile client does.

    Attributes:
        frames: repeated without end, or made afresh each time.
        stays: until it is closed; otherwise it hangs up and comes back.
        is_endless: otherwise ``frames`` are sent once, and the connection stays.
    """

    path: str
    frames: bytes | Callable[[], bytes]
    says_hello: bool = False
    reads: bool = True
    stays: bool = True
    is_endless: bool = True


ATTACKS = {
    "zeros": Attack("/ws", frame(ZEROS)),
    "zeros after hello": Attack("/ws", frame(ZEROS), says_hello=True),
    "zeros, never read": Attack("/ws", frame(ZEROS), says_hello=True, reads=False),
    "x": Attack("/ws", frame(b"x")),
    "x after hello": Attack("/ws", frame(b"x"), says_hello=True),
    "empty frames": Attack("/ws", frame(b""), says_hello=True),
    "pings": Attack("/ws", frame(b"", 9), says_hello=True),
    "pings, never read": Attack("/ws", frame(b"p" * 125, 9), says_hello=True, reads=False),
    "nested arrays": Attack("/ws", frame(NESTED), says_hello=True),
    "{}": Attack("/ws", frame(BRACES), says_hello=True),
    "500 joins": Attack("/ws", frame(ops("join", 500, "h")), says_hello=True),
    "500 leaves": Attack("/ws", frame(ops("leave", 500, "h")), says_hello=True),
    "500 leaves, never read": Attack("/ws", frame(ops("leave", 500, "h")), says_hello=True, reads=False),
    "join since 0": Attack("/ws", frame(ops("join", ROOMS, since=0)), says_hello=True),
    "zeros on /chat": Attack("/chat/1", frame(ZEROS)),
    "x on /chat": Attack("/chat/1", frame(b"x")),
    "x on /chat, never read": Attack("/chat/1", frame(b"x"), reads=False),
    "x on /feed": Attack("/feed/1", frame(b"x")),
    "zeros on /feed": Attack("/feed/1", frame(ZEROS)),
    "sends": Attack("/ws", sends(ROOMS * 8), says_hello=True),
    "sends to one room": Attack("/ws", sends(64, room="1"), says_hello=True),
    "sends, never read": Attack("/ws", sends(ROOMS * 8), says_hello=True, reads=False),
    "sends of few ids": Attack("/ws", sends_of_few_ids(), says_hello=True),
    "sends to new rooms": Attack("/ws", sends_to_new_rooms, says_hello=True),
    "sends on /chat": Attack("/chat/1", frame(CHAT), reads=True),
    "half a frame": Attack("/ws", frame(ZEROS)[:-1], says_hello=True, is_endless=False),
    "half a request": Attack("", b"GET /ws HTTP/1.1\r\nHost: lo", is_endless=False),
    "reconnects": Attack("/ws", frame(ops("join", 1, since=0)), says_hello=True, stays=False, is_endless=False),
}
FLOODS = [name for name in ATTACKS if name.startswith("sends")]
MIX = "mix"
"""Every attack at once, each by as many connections."""


def upgrade(path: str) -> bytes:
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@attrs.define(eq=False)
class Hostile:
    """One connection, again and again."""

    port: int
    number: int
    attack: Attack
    selector: selectors.BaseSelector
    sent_bytes: int = 0
    opened: int = 0
    back_at: float = 0.0
    leaves_at: float = math.inf
    _chunk: memoryview = attrs.field(init=False)
    _sock: socket.socket | None = None
    _first: bytes = b""
    _at: int = 0

    def __attrs_post_init__(self) -> None:
        self._chunk = self._next_chunk()

    def _next_chunk(self) -> memoryview:
        frames, attack = self.attack.frames, self.attack
        if not isinstance(frames, bytes):
            return memoryview(frames())
        return memoryview(frames * (max(1, CHUNK_BYTES // len(frames)) if attack.is_endless else 1))

    def open(self) -> None:
        sock = socket.socket()
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        first = upgrade(self.attack.path) if self.attack.path else b""
        self._first = first + (frame(hello(self.number)) if self.attack.says_hello else b"")
        if not self.attack.stays:
            self.leaves_at = time.monotonic() + STAY_S
        self._sock, self._at, self.opened = sock, 0, self.opened + 1
        reads = selectors.EVENT_READ if self.attack.reads else 0
        self.selector.register(sock, reads | selectors.EVENT_WRITE, self)

    def act(self, events: int) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            if events & selectors.EVENT_READ and not sock.recv(2**16):
                raise ConnectionError
            if events & selectors.EVENT_WRITE:
                self._write(sock)
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close(self) -> None:
        if self._sock is not None:
            self.selector.unregister(self._sock)
            self._sock.close()
            self._sock, self.leaves_at = None, math.inf
            self.back_at = time.monotonic() + (COME_BACK_S if self.attack.stays else 0.0)

    @property
    def is_away(self) -> bool:
        return self._sock is None

    def _write(self, sock: socket.socket) -> None:
        if self._first:
            self._first = self._first[sock.send(self._first) :]
            return
        sent = sock.send(self._chunk[self._at :])
        self.sent_bytes += sent
        self._at += sent
        if self._at < len(self._chunk):
            return
        if not self.attack.is_endless:
            self.selector.modify(sock, selectors.EVENT_READ, self)
        else:
            self._at = 0
            if not isinstance(self.attack.frames, bytes):
                self._chunk = self._next_chunk()


def run(port: int, attacks: Sequence[Attack], connections: int, seconds: float) -> dict[str, int]:
    """Attack with so many connections, of every kind in turn; bytes sent and connections opened."""
    selector = selectors.DefaultSelector()
    hostile = [Hostile(port, at, attacks[at % len(attacks)], selector) for at in range(connections)]
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for each in hostile:
            if now >= each.leaves_at:
                each.close()
            if each.is_away and now >= each.back_at:
                each.open()
        for key, events in selector.select(0.02):
            key.data.act(events)
    for each in hostile:
        each.close()
    return {
        "sent_bytes": sum(each.sent_bytes for each in hostile),
        "opened": sum(each.opened for each in hostile),
    }


def main() -> None:
    """Read the command line, wait for a line, attack, print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=(*ATTACKS, MIX))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    attacks = list(ATTACKS.values()) if arguments.attack == MIX else [ATTACKS[arguments.attack]]
    connections, seconds = min(arguments.connections, CONNECTIONS_MAX), min(arguments.seconds, SECONDS_MAX)
    json.dump(run(arguments.port, attacks, connections, seconds), sys.stdout)


if __name__ == "__main__":
    main()
