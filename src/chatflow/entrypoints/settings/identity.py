"""How tokens are checked, where ``CHATFLOW_AUTH=jwt``."""

from urllib.parse import urlsplit

import attrs

from chatflow.domain.admission.addresses import is_loopback_host
from chatflow.domain.identity import recent_tokens
from chatflow.domain.identity.claims import ClaimNames, ClaimRules
from chatflow.domain.identity.revocation_watch import POLL_S
from chatflow.domain.permissions import grants_of
from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.fields import integer, listed, seconds, secret, text, url
from chatflow.entrypoints.settings.messages import MessageSettings

_NAMES, _RULES = ClaimNames(), ClaimRules()
SOURCES = ("jwt_secret", "jwt_public_key", "jwt_jwks_url", "auth_callback_url")
"""One of them, and no more, says how tokens are checked."""


def check_identity_url(value: str) -> None:
    """Accept https, and http to this machine: keys and tokens cross no network in the clear.

    Raises:
        ValueError: anything else; quotes nothing.
    """
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ValueError("is no URL") from exc
    if not host or port == 0 or parts.fragment:
        raise ValueError("needs a host, a port from 1 to 65535 if any, and no fragment")
    if parts.scheme != "https" and not is_loopback_host(host):
        raise ValueError("must be https, unless its host is loopback")


@attrs.frozen
class IdentitySettings:
    """Whose tokens are accepted, and how their claims are read."""

    common: Common = attrs.field(factory=Common)
    limits: MessageSettings = attrs.field(factory=MessageSettings)
    jwt_secret: str = secret("secret that signs tokens by HS256, 32 bytes or more")
    jwt_public_key: str = text("", "public key in PEM that verifies RS256, ES256 or EdDSA, or the file that holds it")
    jwt_jwks_url: str = url(
        "",
        "https URL of an identity provider's keys (JWKS)",
        schemes=("https://", "http://"),
        check=check_identity_url,
    )
    auth_callback_url: str = url(
        "",
        "https URL that is asked whose a token is, instead of any key",
        schemes=("https://", "http://"),
        check=check_identity_url,
    )
    jwt_audience: str = text("chatflow", "aud that a token must name")
    jwt_issuer: str = text("", "iss that a token must name; unset: any that has the key")
    jwt_leeway_s: int = integer(
        _RULES.leeway_s, "seconds by which clocks may differ, added to a token's end", least=0, most=600
    )
    jwt_user_claim: str = text(
        _NAMES.user, "claim with the user id, an integer; unset: sub, hashed unless it is an integer below 2^52"
    )
    jwt_name_claim: str = text(_NAMES.name, "claim with the display name")
    jwt_grants_claim: str = text(_NAMES.grants, "claim with the grants, a list of {room, may}")
    jwt_admin_claim: str = text(_NAMES.admin, "claim that is true for an admin")
    jwt_metrics_claim: str = text(_NAMES.metrics, "claim that is true for who may read metrics")
    jwt_grants: str = listed(
        "", "grants of a token without that claim, such as lobby:rw,team-*:r; unset: none", check=grants_of
    )
    jwks_refresh_s: float = seconds(300.0, "seconds after which the keys of the JWKS URL are fetched again")
    auth_timeout_s: float = seconds(3.0, "seconds that the JWKS URL or the authorization callback may take")
    token_cache_s: float = seconds(recent_tokens.FRESH_S, "seconds for which a token that was accepted is known again")
    token_cache_entries: int = integer(recent_tokens.ENTRIES_MAX, "tokens that are known again")
    revocation_poll_s: float = seconds(POLL_S, "seconds after which a process looks again for what was revoked")
    revocations_max: int = integer(100_000, "revocations that are kept; one more is refused")

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources that are set."""
        return tuple(name for name in SOURCES if getattr(self, name))
