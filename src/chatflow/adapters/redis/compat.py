"""Every part of redis-py that the adapter uses and that may change without notice; no other module may use one.

| touched | what for | what breaks | noticed by |
|---|---|---|---|
| `Connection(driver_info=None)` | no ``CLIENT SETINFO`` at connect | connecting | check 1 |
| `Connection(maint_notifications_config=)`, `redis.maint_notifications` \
    | no ``CLIENT MAINT_NOTIFICATIONS`` at connect | connecting | check 2 |

`CHECKS` run at start, see `connection_options`: if one fails, both requests are made, at a round trip each. Scripts,
retries, RESP3, pub/sub, Sentinel and cluster are used as documented.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog
from redis.asyncio import Connection

from chatflow.domain.resilience.self_check import failed_checks

log = structlog.get_logger()


def connection_options(*, forced_fallback: bool = False) -> dict[str, Any]:
    """Options that save each new connection two round trips; none, with one warning, if redis-py is not as expected."""
    if failed := failed_checks(CHECKS, forced=forced_fallback):
        log.warning("cache.driver_fallback", failed=failed, redis=redis.__version__)
        return {}
    return {"driver_info": None, "maint_notifications_config": _no_notifications()}


def _no_notifications() -> Any:
    return importlib.import_module("redis.maint_notifications").MaintNotificationsConfig(enabled=False)


def _sends_no_driver_info() -> bool:
    return Connection(driver_info=None).driver_info is None


def _sends_no_notifications() -> bool:
    config = _no_notifications()
    return not config.enabled and Connection(maint_notifications_config=config).maint_notifications_config is config


CHECKS: Mapping[str, Callable[[], bool]] = {
    "a connection can do without CLIENT SETINFO": _sends_no_driver_info,
    "a connection can do without CLIENT MAINT_NOTIFICATIONS": _sends_no_notifications,
}
