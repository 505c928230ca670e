"""How the ports of every role are encrypted."""

import attrs

from chatflow.entrypoints.settings.fields import integer, seconds, text


@attrs.frozen
class TlsSettings:
    """TLS on every port of a process, or on none."""

    tls_cert: str = text("", "certificate chain of every port, a PEM file, read again when renewed; empty: no TLS")
    tls_key: str = text("", "its private key, a PEM file that only its owner, or a group, may read")
    tls_handshake_s: float = seconds(10.0, "seconds that a TLS handshake may take")
    tls_handshakes_max: int = integer(1000, "TLS handshakes under way in a process; one more ends the oldest")

    @property
    def is_on(self) -> bool:
        """Whether clients must speak TLS."""
        return bool(self.tls_cert)
