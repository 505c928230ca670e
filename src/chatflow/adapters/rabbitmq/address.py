"""Broker URLs: ``amqp://user:password@host/vhost``, or ``amqps://`` with TLS.

Certificate and host name are verified against the system's authorities, or those in the file ``?ssl_ca=``. ``ssl_cert``
and ``ssl_key`` name the client's own, ``ssl_check_hostname=false`` accepts any host name: as in other servers' URLs.
"""

import ssl

from yarl import URL

from chatflow.ports.tls import TLS_KEYS, context_of, tls_of

DRIVERS_KEYS = {"cafile": "ssl_ca", "certfile": "ssl_cert", "keyfile": "ssl_key"}
UNVERIFIED = "no_verify_ssl"


def parse(url: str) -> tuple[URL, ssl.SSLContext | None]:
    """The URL without its TLS parameters, and what verifies the server; ``None`` for an unencrypted connection.

    Raises:
        ValueError: says what is wrong with it, never the password.
    """
    try:
        parsed = URL(url)
    except ValueError:
        raise ValueError("broker URL: it cannot be read, or its port is no number") from None
    for key in parsed.query:
        if key in DRIVERS_KEYS:
            raise ValueError(f"broker URL: {key} is called {DRIVERS_KEYS[key]} here")
        if key == UNVERIFIED:
            raise ValueError(f"broker URL: {key} is not possible; name the authority with ssl_ca")
    given = {key: parsed.query[key] for key in TLS_KEYS if key in parsed.query}
    if parsed.scheme != "amqps":
        if given:
            raise ValueError(f"broker URL: {next(iter(given))} needs amqps://")
        return parsed, None
    try:
        return parsed.without_query_params(*TLS_KEYS), context_of(tls_of(given))
    except ValueError as exc:
        raise ValueError(f"broker URL: {exc}") from exc
