"""What ``chatflow sessions disconnect`` does. It writes a row, also beside a running process: no cache holds it."""

from chatflow.adapters.sql.revocations import SqlRevocationLog
from chatflow.entrypoints.audit_trails import open_audit_log, operator
from chatflow.entrypoints.cli.database import open_existing
from chatflow.entrypoints.clocks import now_us
from chatflow.entrypoints.settings import IdentitySettings
from chatflow.ports.revocations import Revocation

BY_CHARS = 64


async def revoke(identity: IdentitySettings, user_id: int | None, token_id: str | None, keep_s: int) -> None:
    """Revoke a token, or all that a user has been issued so far, and put it on record.

    Raises:
        StartError: there is no such database, or the audit trail cannot be written.
        RevocationsFull: as many are kept as may be.
        StoreUnavailable: the database does not answer; whether it is revoked is unknown.
    """
    trail = open_audit_log(identity.common)
    try:
        by, revoked_at_us = operator(), now_us()
        revocation = Revocation(user_id, token_id, revoked_at_us, revoked_at_us + keep_s * 1_000_000, by[:BY_CHARS])
        async with open_existing(identity.common) as database:
            await SqlRevocationLog(database).append(revocation, limit=identity.revocations_max)
        if token_id is None:
            trail.acted("user.disconnected", by, user_id=user_id or 0, until_us=revocation.expires_at_us)
        else:
            trail.acted("token.revoked", by, user_id=user_id or 0, token_id=token_id, until_us=revocation.expires_at_us)
    finally:
        trail.close()
