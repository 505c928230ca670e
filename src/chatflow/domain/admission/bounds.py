"""What the clients of a port may hold before anybody knows who they are."""

HANDSHAKES_MAX = 1_000
"""On the gateway's WebSocket port, at a time."""

HTTP_CONNECTIONS_MAX = 1_000
"""On each HTTP port."""

HEAD_TIMEOUT_S = 10.0
"""For the head of a request, from its first byte; for the first one, from the connection."""

KEEPALIVE_S = 75.0
"""Between two requests; most balancers give up after 60."""

SEND_BUFFER_BYTES = 131_072
"""``SO_SNDBUF`` of a WebSocket client; Linux doubles it for its own books. Left alone it grows to megabytes."""
