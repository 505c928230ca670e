"""Answers to who is turned away before there is a request that a library could answer."""

import email.utils
import http


def turned_away(status: int, body: str, content_type: str = "text/plain; charset=utf-8", *, retry_s: int = 0) -> bytes:
    """A whole HTTP answer; the connection is closed after it.

    Args:
        status: of the answer.
        body: one line for people, or JSON.
        content_type: of the body.
        retry_s: seconds after which another try is welcome; 0: not told.
    """
    encoded = body.encode()
    retry = f"Retry-After: {retry_s}\r\n" if retry_s else ""
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        f"Date: {email.utils.formatdate(usegmt=True)}\r\n"
        f"Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{retry}"
        f"Content-Type: {content_type}\r\nContent-Length: {len(encoded)}\r\n\r\n"
    )
    return head.encode("ascii") + encoded
