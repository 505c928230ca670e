"""The keys that settings and options name. Cryptography is imported only where there are any: it takes long."""

from pathlib import Path
from typing import TYPE_CHECKING

from chatflow.entrypoints.settings.checks import Start
from chatflow.entrypoints.settings.common import Common
from chatflow.entrypoints.settings.environment import SettingsError
from chatflow.entrypoints.settings.fields import PREFIX
from chatflow.entrypoints.settings.identity import SOURCES, IdentitySettings

if TYPE_CHECKING:
    from chatflow.adapters.jwt.keys import Key

PEM = "-----BEGIN "
LARGEST_BYTES = 65_536


def check_identity(start: Start, common: Common, identity: IdentitySettings) -> None:
    """Require that whoever asks for tokens can check them, and that whoever has keys asks for tokens.

    Raises:
        SettingsError: no source of keys is set, or more than one, or one that cannot be used.
    """
    sources = [f"{PREFIX}{name.upper()}" for name in identity.sources]
    if common.auth == "jwt" and start != "tool":
        if not sources:
            choices = ", ".join(f"{PREFIX}{name.upper()}" for name in SOURCES)
            raise SettingsError("CHATFLOW_AUTH", f"is jwt, which needs one of {choices}")
        if len(sources) > 1:
            raise SettingsError(sources[1], f"and {sources[0]} are both set; set one of them")
    elif sources and start != "tool" and not common.is_open_by_hand:
        raise SettingsError("CHATFLOW_AUTH", f"must be set to jwt, or {sources[0]} would be ignored")
    local_key(identity)


def local_key(identity: IdentitySettings) -> "Key | None":
    """The key that is a setting itself; ``None`` where a server has it.

    Raises:
        SettingsError: it is none, or a weak one.
    """
    if not (identity.jwt_secret or identity.jwt_public_key):
        return None
    from chatflow.adapters.jwt.keys import public_key, secret_key

    try:
        if identity.jwt_secret:
            return secret_key(identity.jwt_secret)
        return public_key(read_pem(identity.jwt_public_key))
    except ValueError as exc:
        name = "CHATFLOW_JWT_SECRET" if identity.jwt_secret else "CHATFLOW_JWT_PUBLIC_KEY"
        raise SettingsError(name, str(exc)) from exc


def read_pem(value: str) -> str:
    """The PEM itself, or what is in the file of that name, which is not quoted: it might be part of a key.

    Raises:
        ValueError: the file cannot be read.
    """
    if value.startswith(PEM):
        return value
    try:
        with Path(value).open("rb") as file:
            return file.read(LARGEST_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("must be PEM, or name a file that holds it") from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "no name of a file"
        raise ValueError(f"must be PEM, or name a file that can be read: {reason.lower()}") from None
