"""``chatflow dlq``: dead letters of both kinds, rows of the database and envelopes that the broker has put aside.

A replay publishes, and a processor stores. An embedded broker is reached through the socket of its process; while that
does not run, a replay stores by itself: there are no caches and no listeners then. Its dead letters are all rows.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from chatflow.adapters.memory.broker_socket import connect_broker_socket
from chatflow.adapters.rabbitmq.broker import RabbitBroker, open_broker
from chatflow.adapters.rabbitmq.dead_letters import open_dead_letter_queue
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.dlq import SqlDeadLetters
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.domain.persistence.replay import Outcome, Replayed, Republisher, oldest, replay_into_store
from chatflow.entrypoints.cli.database import open_existing
from chatflow.entrypoints.cli.dead_letter_views import (
    BROKER_PREFIX,
    Row,
    row_of_envelope,
    row_of_letter,
    shown_envelope,
    shown_letter,
)
from chatflow.entrypoints.clocks import now_us
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common
from chatflow.ports.errors import BrokerError, StoreError
from chatflow.ports.store import DeadLetter, DeadLetters

PAGE = 1_000


@attrs.frozen
class Listing:
    """``unread``: why the broker's are missing; ``""`` when they are not."""

    rows: list[Row]
    unread: str = ""


@attrs.define
class ReplayReport:
    """``done``: the best that can become of one. ``failure``: why it ended before all were tried; else ``""``."""

    done: Outcome
    results: list[Replayed] = attrs.field(factory=list)
    failure: str = ""


async def list_dead(common: Common, *, limit: int, include_resolved: bool) -> Listing:
    """Dead letters, oldest first, those of the database before those of the broker; of each at most ``limit``."""
    async with open_existing(common) as database:
        letters = await _box(database).list_dead(limit=limit, include_resolved=include_resolved)
    rows = [row_of_letter(letter) for letter in letters]
    if common.is_embedded:
        return Listing(rows)
    try:
        async with open_dead_letter_queue(common.broker_urls, driver_fallback=common.driver_fallback) as dead:
            rows += [row_of_envelope(letter) async for letter in oldest(dead, limit=limit)]
    except BrokerError as exc:
        return Listing(rows, str(exc))
    return Listing(rows)


async def show_dead(common: Common, name: str) -> dict[str, Any]:
    """One dead letter with its original.

    Raises:
        StartError: there is none of this name.
        BrokerError: the broker does not answer.
    """
    numbers, ids = _parsed([name])
    if numbers:
        async with open_existing(common) as database:
            (letter,) = await _found(_box(database), numbers)
            return shown_letter(letter)
    _check_broker(common, ids)
    async with open_dead_letter_queue(common.broker_urls, driver_fallback=common.driver_fallback) as dead:
        async for envelope in oldest(dead):
            if envelope.id in ids:
                return shown_envelope(envelope)
    raise _unknown(ids)


async def replay_dead(common: Common, names: Sequence[str]) -> ReplayReport:
    """Replay these, or all unresolved ones when none is named; nothing is tried unless all of them exist.

    Raises:
        StartError: there is none of one of these names.
        BrokerError: the broker cannot be used at all.
    """
    numbers, ids = _parsed(names)
    replays = ReplayReport(Outcome.STORED if common.is_embedded else Outcome.PUBLISHED)
    async with open_existing(common) as database:
        box = _box(database)
        if common.is_embedded:
            _check_broker(common, ids)
            letters = _found_one_by_one(box, await _chosen(box, numbers, names))
            await _collect(replays, _replayed_embedded(common, database, letters))
            return replays
        async with _running_broker(common) as broker:
            again = Republisher(broker, box, common.partitions)
            chosen = await _chosen(box, numbers, names)
            await _collect(replays, _republished(again, broker, chosen, ids, every=not names))
    return replays


async def _replayed_embedded(
    common: Common, database: Database, letters: AsyncIterator[DeadLetter]
) -> AsyncIterator[Replayed]:
    """Through the running process if there is one. It confirms what it has settled, so the outcome is known at once."""
    box = _box(database)
    socket = await connect_broker_socket(common.broker_socket)
    if socket is None:
        store = SqlMessageStore(database, now_us, summaries=common.profile.summaries)
        async for letter in letters:
            yield await replay_into_store(letter, store, box)
        return
    reader = SqlMessageReader(database)
    try:
        again = Republisher(socket, box, common.partitions)
        async for letter in letters:
            replayed = await again.replay(letter)
            stored = await reader.locate([letter.message_id])
            if replayed.outcome is Outcome.PUBLISHED and letter.message_id in stored:
                replayed = Replayed(letter, Outcome.STORED, stored[letter.message_id].seq)
            yield replayed
    finally:
        await socket.close()


async def _republished(
    again: Republisher, broker: RabbitBroker, chosen: Sequence[int], ids: Sequence[str], *, every: bool
) -> AsyncIterator[Replayed]:
    dead = broker.dead()
    try:
        wanted = [letter async for letter in oldest(dead) if letter.id in ids] if ids else []
        if missing := set(ids) - {letter.id for letter in wanted}:
            raise _unknown(sorted(missing))
        async for letter in _found_one_by_one(again.dead_letters, chosen):
            yield await again.replay(letter)
        for envelope in wanted:
            yield await again.replay_envelope(envelope, dead)
        if every:
            async for envelope in oldest(dead):
                yield await again.replay_envelope(envelope, dead)
    finally:
        await dead.close()


async def _collect(replays: ReplayReport, results: AsyncIterator[Replayed]) -> None:
    """Keep what was done when a server goes away in the middle."""
    try:
        async for result in results:
            replays.results.append(result)
    except (BrokerError, StoreError) as exc:
        replays.failure = str(exc)


@asynccontextmanager
async def _running_broker(common: Common) -> AsyncIterator[RabbitBroker]:
    broker = open_broker(
        common.broker_urls,
        partitions=common.partitions,
        queue_limit_bytes=common.broker_limit_bytes,
        driver_fallback=common.driver_fallback,
    )
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


def _box(database: Database) -> SqlDeadLetters:
    return SqlDeadLetters(database, now_us)


async def _chosen(box: DeadLetters, numbers: Sequence[int], names: Sequence[str]) -> Sequence[int]:
    """The rows to replay, found before the first is: one that comes back under a new number waits for the next time."""
    if names:
        await _found(box, numbers)
        return numbers
    chosen: list[int] = []
    while page := await box.list_dead(limit=PAGE, after_id=chosen[-1] if chosen else 0):
        chosen += [letter.id for letter in page]
    return chosen


async def _found(box: DeadLetters, numbers: Sequence[int]) -> list[DeadLetter]:
    letters = {number: await box.get_dead(number) for number in numbers}
    if missing := [str(number) for number, letter in letters.items() if letter is None]:
        raise StartError(f"there is no dead letter {', '.join(missing)}")
    return [letter for letter in letters.values() if letter is not None]


async def _found_one_by_one(box: DeadLetters, numbers: Sequence[int]) -> AsyncIterator[DeadLetter]:
    for number in numbers:
        if (letter := await box.get_dead(number)) is not None:
            yield letter


def _parsed(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Numbers of rows and ids of envelopes, each once."""
    numbers: list[int] = []
    ids: list[str] = []
    for name in dict.fromkeys(names):
        if name.startswith(BROKER_PREFIX):
            ids.append(name.removeprefix(BROKER_PREFIX))
        elif name.isascii() and name.isdigit() and len(name) < 19:
            numbers.append(int(name))
        else:
            raise StartError(f"{name!r} names no dead letter: `chatflow dlq list` shows the ids")
    return list(dict.fromkeys(numbers)), ids


def _check_broker(common: Common, ids: Sequence[str]) -> None:
    if ids and common.is_embedded:
        raise StartError(f"{BROKER_PREFIX}{ids[0]} lies in a broker, and CHATFLOW_BROKER_URL names none")


def _unknown(ids: Sequence[str]) -> StartError:
    return StartError(f"there is no dead letter {', '.join(BROKER_PREFIX + each for each in ids)}")
