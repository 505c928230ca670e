"""Who reads tokens in this process, as the settings say. Cryptography is imported only where there are tokens."""

import time
from collections.abc import AsyncIterator

import structlog

from chatflow.adapters.aiohttp.bearer import Bearers
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.revocations import SqlRevocationLog
from chatflow.domain.identity.claims import ClaimNames, ClaimRules
from chatflow.domain.identity.recent_tokens import RecentTokens
from chatflow.domain.identity.revocation_watch import RevocationWatch
from chatflow.domain.identity.revoked import Revoked
from chatflow.domain.permissions import grants_of
from chatflow.entrypoints.builders import limits_of
from chatflow.entrypoints.clocks import now_us
from chatflow.entrypoints.roles.waiting import until_ready
from chatflow.entrypoints.settings import IdentitySettings
from chatflow.entrypoints.settings.token_keys import local_key
from chatflow.ports.audit_trail import AuditTrail
from chatflow.ports.identity import Authenticator

log = structlog.get_logger()


async def open_authenticator(identity: IdentitySettings) -> AsyncIterator[Authenticator | None]:
    """Who reads tokens, once the keys are there; ``None`` in open mode. For a container's ``Resource``."""
    if identity.common.auth != "jwt":
        yield None
        return
    authenticator = RecentTokens(
        _source_of(identity),
        time.monotonic,
        now_us,
        fresh_s=identity.token_cache_s,
        entries_max=identity.token_cache_entries,
    )
    try:
        await until_ready("identity", authenticator.open)
        yield authenticator
    finally:
        await authenticator.close()


def bearers_of(
    authenticator: Authenticator | None, revoked: Revoked | None, audit_trail: AuditTrail | None
) -> Bearers | None:
    """Who reads the tokens of HTTP requests; ``None`` in open mode."""
    return None if authenticator is None else Bearers(authenticator, revoked, audit_trail)


def revoked_of(identity: IdentitySettings) -> Revoked | None:
    """What this process knows of revocations; ``None`` in open mode, where nobody brings a token."""
    return Revoked(identity.jwt_leeway_s) if identity.common.auth == "jwt" else None


def revocation_watch_of(
    identity: IdentitySettings, database: Database, revoked: Revoked | None
) -> RevocationWatch | None:
    """Who keeps that up to date; ``None`` in open mode."""
    if revoked is None:
        return None
    return RevocationWatch(
        SqlRevocationLog(database),
        revoked,
        now_us,
        identity.revocation_poll_s,
        failed=lambda exc: log.warning("revocations.unread", error=str(exc)),
    )


def rules_of(identity: IdentitySettings) -> ClaimRules:
    """How claims are read."""
    names = ClaimNames(
        user=identity.jwt_user_claim,
        name=identity.jwt_name_claim,
        grants=identity.jwt_grants_claim,
        admin=identity.jwt_admin_claim,
        metrics=identity.jwt_metrics_claim,
    )
    return ClaimRules(names, limits_of(identity.limits), identity.jwt_leeway_s, grants_of(identity.jwt_grants))


def _source_of(identity: IdentitySettings) -> Authenticator:
    from chatflow.adapters.auth_callback import CallbackAuthenticator
    from chatflow.adapters.jwt.authenticator import JwtAuthenticator
    from chatflow.adapters.jwt.key_set import RemoteKeys
    from chatflow.adapters.jwt.keys import KeySource, OneKey

    rules = rules_of(identity)
    if identity.auth_callback_url:
        return CallbackAuthenticator(identity.auth_callback_url, rules, now_us, timeout_s=identity.auth_timeout_s)
    key = local_key(identity)
    keys: KeySource = (
        OneKey(key)
        if key is not None
        else RemoteKeys(
            identity.jwt_jwks_url,
            time.monotonic,
            refresh_s=identity.jwks_refresh_s,
            timeout_s=identity.auth_timeout_s,
        )
    )
    return JwtAuthenticator(keys, identity.jwt_audience, rules, identity.jwt_issuer)
