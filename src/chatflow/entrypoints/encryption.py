"""The TLS of this process's ports, as the settings want it."""

from pathlib import Path

from chatflow.adapters.audit_log import AuditLog
from chatflow.adapters.tls.certificate import Certificate, CertificateError
from chatflow.adapters.tls.entry import TlsEntrance
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common, check_secrecy


def open_tls(common: Common, trail: AuditLog) -> TlsEntrance | None:
    """``None``: the ports are not encrypted.

    Raises:
        StartError: the certificate or its key cannot be used.
    """
    tls = common.tls
    if not tls.is_on:
        return None
    try:
        check_secrecy(Path(tls.tls_key))
    except (OSError, ValueError) as exc:
        reason = (exc.strerror or str(exc)).lower() if isinstance(exc, OSError) else str(exc)
        raise StartError(f"CHATFLOW_TLS_KEY {tls.tls_key} {reason}") from exc
    try:
        certificate = Certificate(
            Path(tls.tls_cert),
            Path(tls.tls_key),
            on_renewal=lambda expires: trail.acted("tls.renewed", "process", detail=f"expires {expires}"),
        )
    except CertificateError as exc:
        raise StartError(f"CHATFLOW_TLS_CERT {exc}") from exc
    return TlsEntrance(certificate, handshake_s=tls.tls_handshake_s, limit=tls.tls_handshakes_max)
