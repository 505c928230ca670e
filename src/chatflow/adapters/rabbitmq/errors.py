"""Every driver error, translated in one place.

    returned as unroutable                   -> BrokerUnavailable
    nack                                     -> BrokerFull
    refused user, virtual host or permission -> BrokerMisconfigured while starting, else BrokerUnavailable
    everything else                          -> BrokerUnavailable

A queue with ``x-overflow=reject-publish`` says that it is full with a nack, and by nothing else. RabbitMQ also nacks
when a queue breaks down while it holds the envelope; that is told as full once, and the retry learns better.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import AuthenticationError, DeliveryError, ProbableAuthenticationError, PublishError
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed

from chatflow.ports.errors import BrokerError, BrokerFull, BrokerMisconfigured, BrokerUnavailable, ChatflowError

REFUSED = (AuthenticationError, ProbableAuthenticationError, ChannelAccessRefused, ConnectionNotAllowed)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Let nothing but chatflow's own errors out of a driver call; keep other work out of the block."""
    try:
        yield
    except asyncio.CancelledError as exc:
        if was_cancelled():
            raise
        raise BrokerUnavailable(f"{doing}: the connection ended") from exc
    except ChatflowError:
        raise
    except Exception as exc:  # what a server may say is open, and so is what the driver makes of it
        raise _meaning(exc, doing) from exc


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
    """The driver logs each attempt to connect, and a traceback for each lost connection; the adapter says it once."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def was_cancelled() -> bool:
    """Whether this task was cancelled; the driver also raises CancelledError into those who wait for a dead socket."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _meaning(error: BaseException, doing: str) -> BrokerError:
    if isinstance(error, PublishError):
        return BrokerUnavailable(f"{doing}: no queue takes it ({error})")
    if isinstance(error, DeliveryError):
        return BrokerFull(f"{doing}: refused by the queue")
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{doing}: no answer in time")
    return BrokerUnavailable(f"{doing}: {error!r}")
