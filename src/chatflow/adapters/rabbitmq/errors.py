"""Translates the driver's errors, in one place.

    returned as unroutable                   -> BrokerUnavailable
    nack                                     -> BrokerFull
    refused user, virtual host or permission -> BrokerMisconfigured while starting, else BrokerUnavailable
    every other one of `DRIVER_ERRORS`       -> BrokerUnavailable

Anything else is a bug and stays what it is. A queue with ``x-overflow=reject-publish`` says that it is full with a
nack, and by nothing else. RabbitMQ also nacks when a queue breaks down while it holds the envelope; that is reported as
full once, and the retry finds out.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed

from chatflow.ports.errors import BrokerError, BrokerFull, BrokerMisconfigured, BrokerUnavailable
from chatflow.ports.tls import certificate_refusal

REFUSED = (AuthenticationError, ProbableAuthenticationError, ChannelAccessRefused, ConnectionNotAllowed)
DRIVER_ERRORS = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
"""What a broken connection, a closed channel or a refusal looks like: aio-pika's own list, which has RuntimeError for
what is used after it was closed, and asyncio's."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate what a call of the driver raises; keep other work out of the block."""
    try:
        yield
    except asyncio.CancelledError as exc:
        if was_cancelled():
            raise
        raise BrokerUnavailable(f"{doing}: the connection ended") from exc
    except DRIVER_ERRORS as exc:
        raise _meaning(exc, doing) from exc
    except Exception as exc:
        if type(exc) is not Exception:
            raise
        # The driver fails those who wait for a channel that was closed without a reason with a bare Exception.
        raise BrokerUnavailable(f"{doing}: the channel was closed") from exc


@contextmanager
def starting(doing: str) -> Iterator[None]:
    """Like `translated`, and a refusal that no retry cures is `BrokerMisconfigured`."""
    try:
        with translated(doing):
            yield
    except BrokerUnavailable as exc:
        cause = exc.__cause__
        if not isinstance(cause, REFUSED) or "is down" in str(cause):
            raise
        raise BrokerMisconfigured([f"{doing}: {cause}"]) from cause


def quiet_driver() -> None:
    """Silence the driver's loggers: they log every attempt to connect and a traceback for every lost connection."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def was_cancelled() -> bool:
    """Whether this task was cancelled: the driver also raises CancelledError in tasks that wait for a dead socket."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _meaning(error: BaseException, doing: str) -> BrokerError:
    if isinstance(error, PublishError):
        return BrokerUnavailable(f"{doing}: no queue takes it ({error})")
    if isinstance(error, DeliveryError):
        return BrokerFull(f"{doing}: refused by the queue")
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{doing}: no answer in time")
    if (refusal := certificate_refusal(error)) is not None:
        return BrokerUnavailable(f"{doing}: {refusal}")
    return BrokerUnavailable(f"{doing}: {error!r}")
