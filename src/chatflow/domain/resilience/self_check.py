"""Self-checks of adapters: is a driver still what the adapter's ``compat`` module was written for?"""

from collections.abc import Callable, Mapping

FORCED = "CHATFLOW_DRIVER_FALLBACK is set"


def failed_checks(checks: Mapping[str, Callable[[], bool]], *, forced: bool = False) -> list[str]:
    """What is not as expected, by name; empty when every check holds.

    A check fails when it returns false or raises. ``forced`` fails all of them without running any.
    """
    if forced:
        return [FORCED]
    return [name for name, check in checks.items() if not _holds(check)]


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001 - whatever it raises, the driver is not what the check expects
        return False
