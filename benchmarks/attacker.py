"""A hostile client in its own process: sends prepared frames as fast as the gateway takes them.

It costs little: plain sockets, answers read and dropped, or never read. A connection that is closed is opened again
after a pause. Count and time are bounded. It says that it is ready, and begins when it is told to. It should run at the
lowest priority: polite clients are to feel what it does to the gateway, not the CPU that it takes itself.
"""

import argparse
import base64
import json
import os
import selectors
import socket
import struct
import sys
import time

import attrs

CHUNK_BYTES = 2**17
COME_BACK_S = 0.1
CONNECTIONS_MAX = 200
SECONDS_MAX = 120.0
MASK = bytes(4)
HELLO = {"op": "hello", "userId": 66, "username": "mallory"}
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


def ops(op: str, count: int, prefix: str = "", **fields: object) -> bytes:
    """A frame's payload of one operation in each of so many rooms."""
    return to_json([{"op": op, "room": f"{prefix}{at + 1}", **fields} for at in range(count)])


ZEROS = b"[" + b",".join([b"0"] * 8_190) + b"]"
BRACES = b"[" + b",".join([b"{}"] * 5_400) + b"]"
NESTED = b"[" * 8_000 + b"]" * 8_000


@attrs.frozen
class Attack:
    """What one kind of hostile client does."""

    path: str
    frames: bytes
    says_hello: bool = False
    reads: bool = True


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
}


def upgrade(path: str) -> bytes:
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: load\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@attrs.define(eq=False)
class Hostile:
    """One connection, again and again."""

    port: int
    attack: Attack
    chunk: memoryview
    selector: selectors.BaseSelector
    sent_bytes: int = 0
    opened: int = 0
    back_at: float = 0.0
    _sock: socket.socket | None = None
    _first: bytes = b""
    _at: int = 0

    def open(self) -> None:
        sock = socket.socket()
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        self._first = upgrade(self.attack.path) + (frame(to_json(HELLO)) if self.attack.says_hello else b"")
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
            self._sock, self.back_at = None, time.monotonic() + COME_BACK_S

    @property
    def is_away(self) -> bool:
        return self._sock is None

    def _write(self, sock: socket.socket) -> None:
        if self._first:
            self._first = self._first[sock.send(self._first) :]
            return
        sent = sock.send(self.chunk[self._at :])
        self.sent_bytes += sent
        self._at = (self._at + sent) % len(self.chunk)


def run(port: int, attack: Attack, connections: int, seconds: float) -> dict[str, int]:
    """Attack; bytes sent and connections opened."""
    chunk = memoryview(attack.frames * max(1, CHUNK_BYTES // len(attack.frames)))
    selector = selectors.DefaultSelector()
    hostile = [Hostile(port, attack, chunk, selector) for _ in range(connections)]
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for each in hostile:
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
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    count, seconds = min(arguments.connections, CONNECTIONS_MAX), min(arguments.seconds, SECONDS_MAX)
    json.dump(run(arguments.port, ATTACKS[arguments.attack], count, seconds), sys.stdout)


if __name__ == "__main__":
    main()
