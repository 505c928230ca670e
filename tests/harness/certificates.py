"""A private certificate authority, and certificates for servers and clients of tests."""

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


@attrs.frozen
class Files:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def replace_by(self, other: "Files") -> None:
        """As a renewal does: the certificate first, then its key."""
        for own, new in ((self.certificate, other.certificate), (self.key, other.key)):
            own.with_suffix(".new").write_bytes(new.read_bytes())
            own.with_suffix(".new").chmod(0o600)
            own.with_suffix(".new").replace(own)


@attrs.define
class Authority:
    """Signs certificates; whoever trusts ``certificate`` trusts them."""

    directory: Path
    name: str = "a private authority"
    _key: ec.EllipticCurvePrivateKey = attrs.field(init=False)
    _own: x509.Certificate = attrs.field(init=False)
    _count: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = self._signed(self.name, self._key, is_authority=True)
        self.certificate.write_bytes(self._own.public_bytes(serialization.Encoding.PEM))

    @property
    def certificate(self) -> Path:
        return self.directory / "authority.pem"

    def trust(self) -> ssl.SSLContext:
        """For a client."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def issue(self, *names: str, lifetime: dt.timedelta = 30 * DAY) -> Files:
        """For these host names and addresses; a negative lifetime has passed already."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._count += 1
        files = Files(self.directory / f"{self._count}.pem", self.directory / f"{self._count}.key")
        signed = self._signed(names[0], key, names=names, lifetime=lifetime)
        files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files.key.chmod(0o600)
        return files

    def _signed(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        names: tuple[str, ...] = (),
        lifetime: dt.timedelta = 30 * DAY,
        is_authority: bool = False,
    ) -> x509.Certificate:
        end = dt.datetime.now(dt.UTC) + lifetime
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(end, dt.datetime.now(dt.UTC)) - DAY)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(each) for each in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
