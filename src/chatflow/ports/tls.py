"""TLS: the parameters of a server's URL, spelt and read the same way for every server, and our own listeners."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

TLS_KEYS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")
_FLAGS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


@attrs.frozen
class Tls:
    """Certificates to trust and to present, as paths of PEM files; "" for none.

    Attributes:
        ca: authorities to trust in place of the system's.
        check_hostname: verify the host name along with the certificate, which is always verified.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    check_hostname: bool = True


def tls_of(parameters: Mapping[str, str]) -> Tls:
    """The TLS parameters among those of a URL.

    Raises:
        ValueError: names the parameter that is invalid.
    """
    if parameters.get("ssl_key") and not parameters.get("ssl_cert"):
        raise ValueError("ssl_key without ssl_cert")
    ca, certificate, key = (parameters.get(name, "") for name in TLS_KEYS[:3])
    return Tls(ca, certificate, key, flag_of(parameters, "ssl_check_hostname", default=True))


def context_of(tls: Tls) -> ssl.SSLContext:
    """What a client verifies a server with; TLS 1.2 is the oldest version.

    Raises:
        ValueError: names the file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
    except OSError as exc:  # also OpenSSL's
        raise ValueError(f"ssl_ca {tls.ca} holds no certificate that can be read") from exc
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key or None)
        except OSError as exc:
            raise ValueError(f"ssl_cert {tls.certificate} and its key cannot be used") from exc
    context.check_hostname = tls.check_hostname
    return context


def certificate_refusal(error: BaseException | None) -> str | None:
    """Why the server's certificate was refused, in OpenSSL's words; ``None``: the error has another cause.

    Drivers raise kept errors again, so causes may lead in a circle.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is refused: {error.verify_message.rstrip('.')}"
        error = error.__cause__ or error.__context__
    return None


def flag_of(parameters: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A parameter that is on or off.

    Raises:
        ValueError: it is neither.
    """
    text = parameters.get(name)
    if text is None:
        return default
    if (value := _FLAGS.get(text.lower())) is None:
        raise ValueError(f"{name} is neither true nor false")
    return value


Secured = Callable[[asyncio.Transport, asyncio.Transport], None]
"""Called with the transport that encrypts and the one below it, which shows what still waits for the peer and can stop
reading at once; nothing is written to the second."""


class TlsListener(Protocol):
    """What makes the connections of a port encrypted."""

    def encrypt(self, raw_transport: asyncio.BaseTransport, protocol: asyncio.Protocol, secured: Secured) -> None:
        """Begin the handshake; to be called in `connection_made`, in place of what that does without TLS.

        Args:
            raw_transport: of the new TCP connection.
            protocol: gets what is decrypted.
            secured: called after the handshake, to do what `connection_made` does; never if the handshake fails.
        """
