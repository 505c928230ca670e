"""How fast one client may go and how much it may write; the defaults are those of the rules themselves."""

import attrs

from chatflow.domain.session import quotas, rates
from chatflow.domain.session.rates import PER_ADDRESS, PER_CONNECTION, PER_USER
from chatflow.entrypoints.settings.fields import integer, seconds


@attrs.frozen
class RateSettings:
    """Rates a second, over which a reader is paused, and quotas; 0 is no limit. Loopback addresses have none."""

    sends_per_connection: int = integer(
        PER_CONNECTION.sends, "messages a second of one connection; 0: no limit", least=0
    )
    joins_per_connection: int = integer(PER_CONNECTION.joins, "joins a second of one connection; 0: no limit", least=0)
    pages_per_connection: int = integer(
        PER_CONNECTION.pages, "pages of history a second of one connection; 0: no limit", least=0
    )
    errors_per_connection: int = integer(
        PER_CONNECTION.errors, "refused frames or items a second of one connection; 0: no limit", least=0
    )
    sends_per_user: int = integer(PER_USER.sends, "messages a second of one user with a token; 0: no limit", least=0)
    joins_per_user: int = integer(PER_USER.joins, "joins a second of one user with a token; 0: no limit", least=0)
    pages_per_user: int = integer(
        PER_USER.pages, "pages of history a second of one user with a token; 0: no limit", least=0
    )
    errors_per_user: int = integer(
        PER_USER.errors, "refused frames or items a second of one user with a token; 0: no limit", least=0
    )
    sends_per_address: int = integer(PER_ADDRESS.sends, "messages a second from one address; 0: no limit", least=0)
    joins_per_address: int = integer(PER_ADDRESS.joins, "joins a second from one address; 0: no limit", least=0)
    pages_per_address: int = integer(
        PER_ADDRESS.pages,
        "pages of history a second from one address; 0: no limit",
        least=0,
    )
    errors_per_address: int = integer(
        PER_ADDRESS.errors,
        "refused frames or items a second from one address; 0: no limit",
        least=0,
    )
    rate_burst_s: float = seconds(rates.BURST_S, "seconds of each rate that may come at once")
    rate_abuse_s: float = seconds(
        rates.ABUSE_S, "half of the seconds of pauses, for anything but messages, that close a /ws connection"
    )
    connections_per_address: int = integer(
        quotas.CONNECTIONS_PER_ADDRESS,
        "connections from one address; 0: no limit",
        least=0,
    )
    sessions_per_user: int = integer(
        quotas.SESSIONS_PER_USER, "sessions of one user with a token, per gateway; 0: no limit", least=0
    )
    new_rooms_per_hour: int = integer(0, "rooms an hour that a user writes to for the first time; 0: no limit", least=0)
    bytes_per_day: int = integer(0, "estimated bytes of messages a day of one user; 0: no limit", least=0)
