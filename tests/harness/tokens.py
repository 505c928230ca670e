"""Tokens of every kind, good and bad, and an identity provider on loopback that publishes keys and can be away."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret for tests alone, of more than 32 bytes"
OTHER_SECRET = "another secret for tests, of more than 32 bytes"
EVERYTHING = ({"room": "*", "may": "rw"},)


def claims_of(user_id: int = 7, name: str = "ada", *grants: dict[str, str], **more: Any) -> dict[str, Any]:
    """Good claims for an hour; ``None`` leaves one out."""
    now = int(time.time())
    claims = {
        "sub": str(user_id),
        "name": name,
        "aud": "chatflow",
        "iat": now,
        "exp": now + 3600,
        "grants": list(grants or EVERYTHING),
    } | more
    return {name: value for name, value in claims.items() if value is not None}


def token_of(*args: Any, secret: str = SECRET, **more: Any) -> str:
    """A token of `claims_of`, signed by HS256."""
    return jwt.encode(claims_of(*args, **more), secret, algorithm="HS256")


def bad_tokens() -> dict[str, tuple[str, str]]:
    """By name: a token that must be refused where `SECRET` verifies, and the fault."""
    now = int(time.time())
    good = token_of()
    head, body, signature = good.split(".")
    rsa_key = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "expired": (token_of(exp=now - 60), "expired"),
        "not yet valid": (token_of(nbf=now + 600), "not_yet_valid"),
        "issued in the future": (token_of(iat=now + 600), "not_yet_valid"),
        "wrong audience": (token_of(aud="other"), "wrong_audience"),
        "no audience": (token_of(aud=None), "bad_claim"),
        "no end": (token_of(exp=None), "bad_claim"),
        "no subject": (token_of(sub=None), "bad_claim"),
        "wrong secret": (token_of(secret=OTHER_SECRET), "bad_signature"),
        "changed body": (f"{head}.{token_of(1, admin=True).split('.')[1]}.{signature}", "bad_signature"),
        "no signature": (f"{head}.{body}.", "bad_signature"),
        "wrong algorithm": (jwt.encode(claims_of(), SECRET * 2, algorithm="HS512"), "wrong_algorithm"),
        "asymmetric": (jwt.encode(claims_of(), RSA, algorithm="RS256"), "wrong_algorithm"),
        "none": (jwt.encode(claims_of(), None, algorithm="none"), "wrong_algorithm"),
        "None": (good.replace(head, _segment({"alg": "None", "typ": "JWT"})), "wrong_algorithm"),
        "no algorithm": (good.replace(head, _segment({"typ": "JWT"})), "wrong_algorithm"),
        "public key as secret": (jwt.encode(claims_of(), rsa_key.hex(), algorithm="HS256"), "bad_signature"),
        "critical header": (jwt.encode(claims_of(), SECRET, headers={"crit": ["x"], "x": 1}), "malformed"),
        "not JSON": ("bm8.bm8.bm8", "malformed"),
        "nested": (f"{_base64(b'[' * 4000)}.e30.x", "malformed"),
        "empty": ("", "malformed"),
        "no token": ("hello", "malformed"),
        "too long": (good + "x" * 9000, "malformed"),
        "blanks": (f" {good}", "malformed"),
        "not ASCII": (good + "\u00e9", "malformed"),
        "half a surrogate": (good + "\ud800", "malformed"),
    }


def _segment(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def public_pem(algorithm: str) -> str:
    key = PRIVATE[algorithm].public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(algorithm: str) -> str:
    return PRIVATE[algorithm].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk_of(algorithm: str, key_id: str | None, private: Any = None) -> dict[str, Any]:
    """The public half as a JSON Web Key."""
    kind = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    jwk = kind.to_jwk((private or PRIVATE[algorithm]).public_key(), as_dict=True)
    return {**jwk, "use": "sig", **({} if key_id is None else {"kid": key_id})}


@attrs.define(eq=False)
class Provider:
    """An identity provider: its key set under ``/keys``, an authorization callback under ``/whose``.

    Attributes:
        keys: what it publishes.
        claims: what the callback answers, by token; others get 401.
        status: of every answer that is not 200, to play an outage.
        body: instead of the right one.
        delay_s: before each answer.
    """

    keys: list[dict[str, Any]] = attrs.field(factory=list)
    claims: dict[str, Any] = attrs.field(factory=dict)
    status: int = 200
    body: bytes | None = None
    delay_s: float = 0.0
    asked: list[str] = attrs.field(factory=list)
    url: str = ""

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked.append("keys")
        return await self._answer(json.dumps({"keys": self.keys}).encode())

    async def _whose(self, request: web.Request) -> web.Response:
        token = (await request.json())["token"]
        self.asked.append(token)
        if self.status == 200 and self.body is None and token not in self.claims:
            return web.Response(status=401)
        return await self._answer(json.dumps(self.claims.get(token)).encode())

    async def _answer(self, right: bytes) -> web.Response:
        await asyncio.sleep(self.delay_s)
        headers = {"Location": "/keys"} if self.status == 302 else {}
        return web.Response(status=self.status, body=right if self.body is None else self.body, headers=headers)


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    served = Provider()
    app = web.Application()
    app.router.add_get("/keys", served._keys)
    app.router.add_post("/whose", served._whose)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield served
    finally:
        await runner.cleanup()
