"""TLS parameters of a server's URL: spelt and read the same way for databases and caches."""

from collections.abc import Mapping

import attrs

TLS_KEYS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")
_FLAGS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


@attrs.frozen
class Tls:
    """Certificates to trust and to present, as paths of PEM files; "" for none.

    Attributes:
        ca: authorities to trust in place of the system's.
        check_hostname: verify the host name along with the certificate, which is always verified.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    check_hostname: bool = True


def tls_of(parameters: Mapping[str, str]) -> Tls:
    """The TLS parameters among those of a URL.

    Raises:
        ValueError: names the parameter that is invalid.
    """
    if parameters.get("ssl_key") and not parameters.get("ssl_cert"):
        raise ValueError("ssl_key without ssl_cert")
    ca, certificate, key = (parameters.get(name, "") for name in TLS_KEYS[:3])
    return Tls(ca, certificate, key, flag_of(parameters, "ssl_check_hostname", default=True))


def flag_of(parameters: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A parameter that is on or off.

    Raises:
        ValueError: it is neither.
    """
    text = parameters.get(name)
    if text is None:
        return default
    if (value := _FLAGS.get(text.lower())) is None:
        raise ValueError(f"{name} is neither true nor false")
    return value
