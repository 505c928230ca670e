import contextlib

import hypothesis.strategies as st
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings

from chatflow.adapters.jwt.authenticator import JwtAuthenticator
from chatflow.adapters.jwt.issuing import issue
from chatflow.adapters.jwt.key_set import parse
from chatflow.adapters.jwt.keys import Key, OneKey, key_of_jwk, private_key, public_key, secret_key
from chatflow.domain.identity.claims import ClaimRules
from chatflow.ports.errors import TokenRefused
from tests.harness.tokens import (
    OTHER_SECRET,
    PRIVATE,
    RSA,
    SECRET,
    bad_tokens,
    claims_of,
    jwk_of,
    private_pem,
    public_pem,
    token_of,
)

BAD = bad_tokens()


def reader(key: Key | None = None, issuer: str = "", leeway_s: int = 30) -> JwtAuthenticator:
    return JwtAuthenticator(OneKey(key or secret_key(SECRET)), "chatflow", ClaimRules(leeway_s=leeway_s), issuer)


async def fault_of(token: str, authenticator: JwtAuthenticator | None = None) -> str:
    with pytest.raises(TokenRefused) as caught:
        await (authenticator or reader()).principal(token)
    assert token == "" or token not in str(caught.value)
    return caught.value.fault.value


async def test_a_good_token_is_read() -> None:
    principal = await reader().principal(token_of(7, "ada", {"room": "room5", "may": "r"}, jti="t"))
    assert (principal.user_id, principal.username, principal.token_id) == (7, "ada", "t")
    assert [grant.room for grant in principal.grants] == ["5"]


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_for_its_fault(name: str) -> None:
    token, fault = BAD[name]
    assert await fault_of(token) == fault


async def test_the_leeway_is_part_of_a_tokens_end() -> None:
    claims = claims_of()
    claims["exp"] = claims["iat"] - 20
    token = issue(claims, secret_key(SECRET))
    assert (await reader().principal(token)).expires_at == claims["exp"] + 30
    assert await fault_of(token, reader(leeway_s=0)) == "expired"


async def test_the_issuer_counts_where_one_is_asked_for() -> None:
    assert (await reader(issuer="https://id").principal(token_of(iss="https://id"))).user_id == 7
    assert await fault_of(token_of(iss="https://other"), reader(issuer="https://id")) == "wrong_issuer"
    assert await fault_of(token_of(), reader(issuer="https://id")) == "bad_claim"


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_public_key_verifies_what_its_private_key_signed_and_nothing_else(algorithm: str) -> None:
    authenticator = reader(public_key(public_pem(algorithm)))
    assert (await authenticator.principal(issue(claims_of(), private_key(private_pem(algorithm))))).user_id == 7
    for other in PRIVATE:
        if other != algorithm:
            assert (
                await fault_of(issue(claims_of(), private_key(private_pem(other))), authenticator) == "wrong_algorithm"
            )
    assert await fault_of(token_of(), authenticator) == "wrong_algorithm"
    assert await fault_of(jwt.encode(claims_of(), None, algorithm="none"), authenticator) == "wrong_algorithm"


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    """The classic: HS256 with the published key as the secret."""
    pem = public_pem("RS256")
    forged = jwt.api_jws.PyJWS()
    forged._algorithms["HS256"] = type(
        "Lax",
        (),
        {
            "prepare_key": lambda self, key: key.encode(),
            "sign": jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign,
            "check_key_length": lambda self, key: None,
        },
    )()
    import json

    token = forged.encode(json.dumps(claims_of(1, admin=True)).encode(), pem, "HS256")
    assert await fault_of(token, reader(public_key(pem))) == "wrong_algorithm"


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        secret_key(secret)


def test_weak_and_foreign_keys_are_refused() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def pem(key: object) -> str:
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match="2048 bits"):
        public_key(pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505
    with pytest.raises(ValueError, match="P-256"):
        public_key(pem(ec.generate_private_key(ec.SECP384R1())))
    for text in ("", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", private_pem("ES256")):
        with pytest.raises(ValueError, match="public key in PEM"):
            public_key(text)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_key_set_gives_each_key_its_own_algorithm(algorithm: str) -> None:
    assert key_of_jwk(jwk_of(algorithm, "k")).algorithm == algorithm


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"kty": "oct", "k": "AAAA"},
        {"alg": "HS256"},
        {"alg": "RS512"},
        {"n": "!"},
        {"n": None},
        {"kty": 5},
    ],
)
def test_a_key_of_a_set_that_is_no_use_is_left_out(change: dict[str, object]) -> None:
    import json

    good = jwk_of("ES256", "good")
    keys = parse(json.dumps({"keys": [jwk_of("RS256", "bad") | change, good, 7, {"kid": 5}]}).encode())
    assert list(keys) == ["good"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[{}]}', b"[" * 100_000])
def test_what_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(body)


parts = st.text("abcAZ09_-", max_size=40) | st.sampled_from(token_of(secret=OTHER_SECRET).split("."))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.builds(lambda *each: ".".join(each), parts, parts, parts)))
async def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        await reader().principal(text)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["exp", "aud", "sub", "nbf", "iat", "iss", "jti", "grants"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text(max_size=3)),
    )
)
async def test_whatever_a_signed_token_claims_is_read_or_refused(claims: dict[str, object]) -> None:
    import json

    token = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, "HS256")
    with contextlib.suppress(TokenRefused):
        await reader().principal(token)


def test_keys_are_never_shown() -> None:
    assert SECRET not in repr(secret_key(SECRET))
    assert "object" not in repr(Key("RS256", RSA))
