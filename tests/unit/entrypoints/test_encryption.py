import time

import pytest

from chatflow.adapters.audit_log import AuditLog
from chatflow.entrypoints.encryption import open_tls
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common, SettingsError, TlsSettings, load_settings
from tests.harness.certificates import DAY


@pytest.fixture
def files(authority):
    return authority.issue("localhost")


def opened(files):
    settings = TlsSettings(tls_cert=str(files.certificate), tls_key=str(files.key))
    return open_tls(Common(tls=settings), AuditLog(time.monotonic))


def test_without_a_certificate_ports_are_not_encrypted():
    assert open_tls(Common(), AuditLog(time.monotonic)) is None


def test_a_certificate_with_its_key_is_taken(files):
    assert opened(files).gauges()["tls_certificate_expires_at"] > time.time()


@pytest.mark.parametrize("given", ["CHATFLOW_TLS_CERT", "CHATFLOW_TLS_KEY"])
def test_a_certificate_without_a_key_is_refused_and_a_key_without_a_certificate(given):
    with pytest.raises(SettingsError, match=f"must be set too, because {given} is"):
        load_settings("up", {given: "/x.pem"}, None)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda files, _: files.key.chmod(0o644), "CHATFLOW_TLS_KEY {key} is too open"),
        (lambda files, _: files.key.unlink(), "CHATFLOW_TLS_KEY {key} no such file"),
        (lambda files, _: files.certificate.unlink(), "CHATFLOW_TLS_CERT {certificate}: no such file"),
        (lambda files, _: files.certificate.write_text("x"), "CHATFLOW_TLS_CERT {certificate} with {key}: no PEM"),
        (lambda files, other: files.key.write_bytes(other.key.read_bytes()), "the key is not the certificate's"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(files, authority, spoil, words):
    spoil(files, authority.issue("localhost"))
    with pytest.raises(StartError) as refused:
        opened(files)
    assert words.format(key=files.key, certificate=files.certificate) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_certificate_that_has_expired_is_refused(authority):
    with pytest.raises(StartError, match="it expired at"):
        opened(authority.issue("localhost", lifetime=-DAY))


def test_a_key_with_a_passphrase_is_refused(files, tmp_path):
    from cryptography.hazmat.primitives import serialization  # only here

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    closed = serialization.BestAvailableEncryption(b"x")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed)
    files.key.write_bytes(pem)
    with pytest.raises(StartError, match="has a passphrase"):
        opened(files)
