"""Keys, each with the one algorithm that it verifies: a token's header never chooses.

That closes the two classic holes: ``none``, and an RSA public key taken for an HMAC secret (RFC 8725, section 2.1).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

SECRET_MIN_BYTES = 32
"""As long as the hash of HS256 (RFC 7518, section 3.2); a shorter one can be guessed from a single token."""

RSA_MIN_BITS = 2048
KINDS = (("RSA", "RS256"), ("EC", "ES256"), ("OKP", "EdDSA"))


@attrs.frozen
class Key:
    """A key and its algorithm; ``material`` is never shown."""

    algorithm: str
    material: Any = attrs.field(repr=False)


class KeySource(Protocol):
    """Where the keys are."""

    async def open(self) -> None:
        """Have keys, or raise `IdentityUnavailable`."""

    async def close(self) -> None:
        """Release everything."""

    async def ping(self) -> None:
        """Return if there are keys; raises `IdentityUnavailable`."""

    async def key_of(self, key_id: str | None) -> Key:
        """The key that a token names, or does not name.

        Raises:
            TokenRefused: there is no such key.
            IdentityUnavailable: nobody knows.
        """

    def counts(self) -> Mapping[str, int]:
        """Counters by name."""


@attrs.frozen(eq=False)
class OneKey:
    """The same key for every token, whatever key it names."""

    key: Key

    async def open(self) -> None:
        """It is there."""

    async def close(self) -> None:
        """It stays."""

    async def ping(self) -> None:
        """It is there."""

    async def key_of(self, key_id: str | None) -> Key:
        """See `KeySource.key_of`."""
        return self.key

    def counts(self) -> Mapping[str, int]:
        """Nothing happens to it."""
        return {}


def secret_key(secret: str) -> Key:
    """The key of HS256.

    Raises:
        ValueError: it is shorter than `SECRET_MIN_BYTES`.
    """
    material = secret.encode()
    if len(material) < SECRET_MIN_BYTES:
        raise ValueError(f"must have at least {SECRET_MIN_BYTES} bytes, such as `openssl rand -hex 32` prints")
    return Key("HS256", material)


def public_key(pem: str) -> Key:
    """The key that verifies RS256, ES256 or EdDSA, as its kind says.

    Raises:
        ValueError: not such a key in PEM, or a weak one.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)") from exc
    return Key(_algorithm_of(key), key)


def private_key(pem: str) -> Key:
    """The key that signs what `public_key` verifies.

    Raises:
        ValueError: not such a key in PEM without a passphrase, or a weak one.
    """
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ValueError("must be a private key in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)") from exc
    return Key(_algorithm_of(key), key)


def key_of_jwk(jwk: Mapping[str, Any]) -> Key:
    """A signing key of a JSON Web Key Set.

    Raises:
        ValueError: not a public key for one of these algorithms, or a weak one, or not for signatures.
    """
    kind = next((algorithm for kty, algorithm in KINDS if jwk.get("kty") == kty), None)
    if jwk.get("use", "sig") != "sig" or kind is None:
        raise ValueError("is no public key for signatures")
    try:
        material = jwt.PyJWK(dict(jwk), kind).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as exc:
        raise ValueError("cannot be read") from exc
    algorithm = _algorithm_of(material)
    if jwk.get("alg", algorithm) not in (algorithm, "Ed25519" if algorithm == "EdDSA" else algorithm):
        raise ValueError("is for another algorithm than RS256, ES256 or EdDSA")
    return Key(algorithm, material)


def _algorithm_of(key: object) -> str:
    match key:
        case RSAPublicKey() | RSAPrivateKey():
            if key.key_size < RSA_MIN_BITS:
                raise ValueError(f"must have at least {RSA_MIN_BITS} bits")
            return "RS256"
        case EllipticCurvePublicKey(curve=SECP256R1()) | EllipticCurvePrivateKey(curve=SECP256R1()):
            return "ES256"
        case Ed25519PublicKey() | Ed25519PrivateKey():
            return "EdDSA"
    raise ValueError("must be an RSA, P-256 or Ed25519 key")
