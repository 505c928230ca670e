"""What ``chatflow dlq`` does with dead letters of both kinds: rows of the database, and envelopes of the broker.

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
from chatflow.domain.persistence.replay import (
    Outcome,
    Replayed,
    Republisher,
    message_from_json,
    oldest,
    replay_into_store,
)
from chatflow.entrypoints.audit_trails import open_audit_log, operator
from chatflow.entrypoints.cli.database import open_existing
from chatflow.entrypoints.cli.dead_letter_views import (
    BROKER_PREFIX,
    DeadLetterRow,
    row_of_dead_letter,
    row_of_envelope,
    shown_dead_letter,
    shown_envelope,
)
from chatflow.entrypoints.clocks import now_us
from chatflow.entrypoints.data_directory import in_use
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common
from chatflow.ports.errors import BrokerError, StoreError
from chatflow.ports.store import DeadLetter, DeadLetters

PAGE = 1_000


@attrs.frozen
class DeadLetterList:
    """``unread``: why those of the broker are missing; ``""`` if they are not."""

    rows: list[DeadLetterRow]
    unread: str = ""


@attrs.define
class ReplayReport:
    """``done``: the best possible outcome of one. ``failure``: why not all were tried; ``""`` if they were."""

    done: Outcome
    results: list[Replayed] = attrs.field(factory=list)
    failure: str = ""


async def list_dead(common: Common, *, limit: int, include_resolved: bool) -> DeadLetterList:
    """Dead letters of the database, then those of the broker, oldest first and at most ``limit`` of each."""
    async with open_existing(common) as database:
        found = await _dead_letters(database).list_dead(limit=limit, include_resolved=include_resolved)
    rows = [row_of_dead_letter(dead) for dead in found]
    if common.is_embedded:
        return DeadLetterList(rows)
    try:
        async with open_dead_letter_queue(common.broker_urls, driver_fallback=common.driver_fallback) as queue:
            rows += [row_of_envelope(dead) async for dead in oldest(queue, limit=limit)]
    except BrokerError as exc:
        return DeadLetterList(rows, str(exc))
    return DeadLetterList(rows)


async def show_dead(common: Common, name: str) -> dict[str, Any]:
    """One dead letter with its original.

    Raises:
        StartError: there is none with this id.
        BrokerError: the broker does not answer.
    """
    numbers, ids = _parsed([name])
    if numbers:
        async with open_existing(common) as database:
            (dead,) = await _found(_dead_letters(database), numbers)
            return shown_dead_letter(dead)
    _check_broker(common, ids)
    async with open_dead_letter_queue(common.broker_urls, driver_fallback=common.driver_fallback) as queue:
        async for envelope in oldest(queue):
            if envelope.id in ids:
                return shown_envelope(envelope)
    raise _unknown(ids)


async def replay_dead(common: Common, names: Sequence[str]) -> ReplayReport:
    """Replay these, or all unresolved ones if none is named; all of them must exist before the first is tried.

    The audit trail gets one entry, also when it fails half-way.

    Raises:
        StartError: one of them does not exist, the process that has the data directory takes none now, or the audit
            trail cannot be written.
        BrokerError: the broker cannot be used at all.
    """
    trail = open_audit_log(common)
    try:
        replays = await _replay_dead(common, names)
        count = sum(result.outcome is replays.done for result in replays.results)
        shown = ",".join(names) or "all"
        trail.acted("dead_letters.replayed", operator(), count=count, detail=f"{shown} {replays.failure}".rstrip())
    finally:
        trail.close()
    return replays


async def _replay_dead(common: Common, names: Sequence[str]) -> ReplayReport:
    numbers, ids = _parsed(names)
    replays = ReplayReport(Outcome.STORED if common.is_embedded else Outcome.PUBLISHED)
    async with open_existing(common) as database:
        dead_letters = _dead_letters(database)
        if common.is_embedded:
            _check_broker(common, ids)
            found = _found_one_by_one(dead_letters, await _chosen(dead_letters, numbers, names))
            await _collect(replays, _replayed_embedded(common, database, found))
            return replays
        async with _open_broker(common) as broker:
            again = Republisher(broker, dead_letters, SqlMessageReader(database), common.partitions)
            chosen = await _chosen(dead_letters, numbers, names)
            await _collect(replays, _republished(again, broker, chosen, ids, every=not names))
    return replays


async def _replayed_embedded(
    common: Common, database: Database, found: AsyncIterator[DeadLetter]
) -> AsyncIterator[Replayed]:
    """Through the running process if there is one. It confirms what it has settled, so the outcome is known at once."""
    dead_letters = _dead_letters(database)
    socket = await connect_broker_socket(common.broker_socket)
    if socket is None:
        store = SqlMessageStore(database, now_us, summaries=common.profile.summaries)
        with in_use(common, alone=True):
            async for dead in found:
                yield await replay_into_store(dead, store, dead_letters)
        return
    reader = SqlMessageReader(database)
    try:
        again = Republisher(socket, dead_letters, reader, common.partitions)
        async for dead in found:
            replayed = await again.replay(dead)
            if replayed.outcome is Outcome.PUBLISHED:
                for stored in (await reader.locate([message_from_json(dead.message_json).key])).values():
                    replayed = Replayed(dead, Outcome.STORED, stored.seq)
            yield replayed
    finally:
        await socket.close()


async def _republished(
    again: Republisher, broker: RabbitBroker, chosen: Sequence[int], ids: Sequence[str], *, every: bool
) -> AsyncIterator[Replayed]:
    queue = broker.dead()
    try:
        wanted = [dead async for dead in oldest(queue) if dead.id in ids] if ids else []
        if missing := set(ids) - {dead.id for dead in wanted}:
            raise _unknown(sorted(missing))
        async for dead in _found_one_by_one(again.dead_letters, chosen):
            yield await again.replay(dead)
        for envelope in wanted:
            yield await again.replay_envelope(envelope, queue)
        if every:
            async for envelope in oldest(queue):
                yield await again.replay_envelope(envelope, queue)
    finally:
        await queue.close()


async def _collect(replays: ReplayReport, results: AsyncIterator[Replayed]) -> None:
    """Keep the results so far if a server goes away."""
    try:
        async for result in results:
            replays.results.append(result)
    except (BrokerError, StoreError) as exc:
        replays.failure = str(exc)


@asynccontextmanager
async def _open_broker(common: Common) -> AsyncIterator[RabbitBroker]:
    broker = open_broker(
        common.broker_urls,
        partitions=common.partitions,
        queue_limit_bytes=common.broker_limit_bytes,
        driver_fallback=common.driver_fallback,
    )
    try:
        await broker.open()
        yield broker
    finally:
        await broker.close()


def _dead_letters(database: Database) -> SqlDeadLetters:
    return SqlDeadLetters(database, now_us)


async def _chosen(dead_letters: DeadLetters, numbers: Sequence[int], names: Sequence[str]) -> Sequence[int]:
    """The rows to replay, found before the first is: one that comes back under a new number waits for the next time."""
    if names:
        await _found(dead_letters, numbers)
        return numbers
    chosen: list[int] = []
    while page := await dead_letters.list_dead(limit=PAGE, after_id=chosen[-1] if chosen else 0):
        chosen += [dead.id for dead in page]
    return chosen


async def _found(dead_letters: DeadLetters, numbers: Sequence[int]) -> list[DeadLetter]:
    found = {number: await dead_letters.get_dead(number) for number in numbers}
    if missing := [str(number) for number, dead in found.items() if dead is None]:
        raise StartError(f"there is no dead letter {', '.join(missing)}")
    return [dead for dead in found.values() if dead is not None]


async def _found_one_by_one(dead_letters: DeadLetters, numbers: Sequence[int]) -> AsyncIterator[DeadLetter]:
    for number in numbers:
        if (dead := await dead_letters.get_dead(number)) is not None:
            yield dead


def _parsed(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Row numbers and envelope ids, without duplicates."""
    numbers: list[int] = []
    ids: list[str] = []
    for name in dict.fromkeys(names):
        if name.startswith(BROKER_PREFIX):
            ids.append(name.removeprefix(BROKER_PREFIX))
        elif name.isascii() and name.isdigit() and len(name) < 19:
            numbers.append(int(name))
        else:
            raise StartError(f"{name!r} is no dead letter id: `chatflow dlq list` shows them")
    return list(dict.fromkeys(numbers)), ids


def _check_broker(common: Common, ids: Sequence[str]) -> None:
    if ids and common.is_embedded:
        raise StartError(f"{BROKER_PREFIX}{ids[0]} is in a broker, but CHATFLOW_BROKER_URL names none")


def _unknown(ids: Sequence[str]) -> StartError:
    return StartError(f"there is no dead letter {', '.join(BROKER_PREFIX + each for each in ids)}")
