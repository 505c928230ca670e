"""From the claims of a token to a `Principal`. Identity providers differ in names and types; these are the rules.

* **User id.** The claim that ``ClaimNames.user`` names, an integer or a decimal string. Without such a name, ``sub``: a
  decimal below 2^52 is itself, anything else is hashed with the issuer to the upper half of the ids, 2^52 to 2^53-1. A
  hash is the same in every process and needs no table, but two users may meet in one id: the odds are about 1 in a
  million among 95,000 users, 1 in 10,000 among a million.
* **Username.** Display names are Unicode, usernames ASCII letters and digits: accents are dropped, then everything else
  that does not fit, then what is too long. If too little is left, it is ``user`` and the id. Names need not be unique.
* **Grants.** A list of ``{"room":"team-*","may":"rw"}``; without the claim, the default grants. A wrong entry makes the
  whole token invalid, since leaving one out might not be what its issuer meant.
"""

import hashlib
import math
import unicodedata
from collections.abc import Mapping

import attrs

from chatflow.domain.messages.validation import MessageLimits
from chatflow.domain.permissions import grant_of
from chatflow.ports.errors import TokenFault, TokenRefused
from chatflow.ports.identity import Grant, Principal

Claims = Mapping[str, object]

HASHED_FROM = 2**52
LATEST_S = 253_402_300_799.0
"""The end of the year 9999, as far as times can be written."""

TEXT_MAX_CHARS = 512
GRANTS_MAX = 256


@attrs.frozen
class ClaimNames:
    """Which claims hold what; ``user`` may be empty."""

    user: str = ""
    name: str = "name"
    grants: str = "grants"
    admin: str = "admin"
    metrics: str = "metrics"


@attrs.frozen
class ClaimRules:
    """How claims are read.

    Attributes:
        leeway_s: clocks may differ by so much; a token holds so much longer than it says.
        default_grants: of a token without the claim.
    """

    names: ClaimNames = attrs.field(factory=ClaimNames)
    limits: MessageLimits = attrs.field(factory=MessageLimits)
    leeway_s: int = 30
    default_grants: tuple[Grant, ...] = ()

    def principal(self, claims: Claims) -> Principal:
        """Who the claims speak of.

        Raises:
            TokenRefused: a claim is missing or wrong.
        """
        names = self.names
        user_id = self._user_id(claims)
        return Principal(
            user_id,
            username_of(claims.get(names.name), user_id, self.limits),
            self._grants(claims),
            min(_time(claims, "exp") + self.leeway_s, LATEST_S),
            _time(claims, "iat") if "iat" in claims else 0.0,
            _text(claims, "jti") if claims.get("jti") is not None else None,
            is_admin=_flag(claims, names.admin),
            may_metrics=_flag(claims, names.metrics),
        )

    def _user_id(self, claims: Claims) -> int:
        subject = claims.get("sub")
        subject = str(subject) if type(subject) is int else _text(claims, "sub")
        if not self.names.user:
            number = _decimal(subject)
            return number if number is not None and number < HASHED_FROM else hashed_id(claims.get("iss"), subject)
        value = claims.get(self.names.user)
        number = value if type(value) is int else _decimal(value) if type(value) is str else None
        if number is None or not 1 <= number <= self.limits.user_id_max:
            raise _bad(self.names.user)
        return number

    def _grants(self, claims: Claims) -> tuple[Grant, ...]:
        entries = claims.get(self.names.grants)
        if entries is None:
            return self.default_grants
        if type(entries) is not list or len(entries) > GRANTS_MAX:
            raise _bad(self.names.grants)
        try:
            return tuple(dict.fromkeys(grant_of(entry["room"], entry["may"]) for entry in entries))
        except (TypeError, KeyError, ValueError) as exc:
            raise _bad(self.names.grants) from exc


def hashed_id(issuer: object, subject: str) -> int:
    """A user id for a subject that is no small number; BLAKE2b (RFC 7693) of issuer and subject, 52 bits of it."""
    digest = hashlib.blake2b(f"{issuer if type(issuer) is str else ''}\0{subject}".encode(), digest_size=8).digest()
    return HASHED_FROM + int.from_bytes(digest) % HASHED_FROM


def username_of(name: object, user_id: int, limits: MessageLimits) -> str:
    """A valid username from a display name; see the module."""
    text = unicodedata.normalize("NFKD", name[:TEXT_MAX_CHARS]) if type(name) is str else ""
    plain = "".join(char for char in text if char.isascii() and char.isalnum())[: limits.username_max]
    if len(plain) >= limits.username_min:
        return plain
    return f"user{user_id}"[: limits.username_max].ljust(limits.username_min, "0")


def _decimal(text: str) -> int | None:
    """The number that is written like this and in no other way."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= 16:
        return int(text)
    return None


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if type(value) is not str or not 1 <= len(value) <= TEXT_MAX_CHARS or not _is_unicode(value):
        raise _bad(name)
    return value


def _is_unicode(text: str) -> bool:
    """JSON may hold half of a surrogate pair, which no encoding can write."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _time(claims: Claims, name: str) -> float:
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise _bad(name)
    return float(min(value, LATEST_S))


def _flag(claims: Claims, name: str) -> bool:
    value = claims.get(name)
    if value is not None and type(value) is not bool:
        raise _bad(name)
    return value is True


def _bad(name: str) -> TokenRefused:
    return TokenRefused(TokenFault.BAD_CLAIM, name)
