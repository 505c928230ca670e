"""Sign tokens, for trying things out and for services without an identity provider."""

from collections.abc import Mapping

import jwt

from chatflow.adapters.jwt.keys import Key


def issue(claims: Mapping[str, object], key: Key) -> str:
    """A signed token; the key is a secret or a private one."""
    return jwt.encode(dict(claims), key.material, algorithm=key.algorithm)
