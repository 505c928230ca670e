"""Which technologies this version can use."""

from chatflow.entrypoints.process import StartError
from chatflow.entrypoints.settings import Common


def check_supported(common: Common) -> None:
    """Refuse at start what would fail later.

    Raises:
        StartError: names the variable.
    """
    for variable, url, supported in (
        ("CHATFLOW_BROKER_URL", common.broker_url, "memory"),
        ("CHATFLOW_CACHE_URL", common.cache_url, "memory"),
        ("CHATFLOW_DATABASE_URL", common.database_url, "sqlite+aiosqlite"),
    ):
        scheme = url.partition("://")[0]
        if scheme != supported:
            raise StartError(f"{variable}: {scheme}:// is not available in this version, only {supported}://")
