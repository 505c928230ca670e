"""What whoever brings a bad token is told."""

from chatflow.ports.errors import TokenFault, TokenRefused

WHY_REFUSED = {
    TokenFault.EXPIRED: "the token has expired",
    TokenFault.NOT_YET_VALID: "the token is not valid yet",
    TokenFault.WRONG_AUDIENCE: "the token is meant for another service",
    TokenFault.WRONG_ISSUER: "the token is from another issuer",
    TokenFault.BAD_SIGNATURE: "the token's signature is wrong",
    TokenFault.WRONG_ALGORITHM: "the token is signed by an algorithm that is not accepted here",
    TokenFault.UNKNOWN_KEY: "the token is signed with an unknown key",
    TokenFault.MALFORMED: "this is no token",
    TokenFault.BAD_CLAIM: "the token lacks a valid claim",
    TokenFault.REVOKED: "the token was revoked",
    TokenFault.REFUSED: "the token was refused",
}


def why_refused(error: TokenRefused) -> str:
    """In words, which hold nothing of the token."""
    return f"{WHY_REFUSED[error.fault]}{f': {error.claim}' if error.claim else ''}"
