"""Time and identity come from outside, so that tests decide both."""

from collections.abc import Callable

Clock = Callable[[], float]
"""Monotonic seconds; only differences mean anything."""

WallClock = Callable[[], int]
"""Microseconds since the Unix epoch, UTC."""

NewId = Callable[[], str]
"""A fresh canonical UUIDv7."""
