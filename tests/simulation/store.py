"""A store of its own process: transactions of several steps that interleave, held in order by nothing but head locks.

A transaction runs in the server: its caller may be killed, or hear of a failure, and it still commits or rolls back
later. Unique ids and unique ``(room, seq)`` are enforced at the commit; breaking the second is reported as it must be.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from chatflow.ports.errors import ChatflowError, RowRejected, SequenceCollision, StoreUnavailable
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import Appended
from tests.simulation.faults import Dice, Scenario
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.verdict import Verdict

LOCK_WAIT_S = 1.0

T = TypeVar("T")


class AlreadyStored(Exception):
    """An id of the insert exists: the caller looks up which, and starts again without them."""


def is_poison(message: Message) -> bool:
    """No transaction can store it."""
    return message.text.startswith("poison")


@attrs.define(eq=False)
class StoreServer:
    """Tables, head locks and summaries.

    Attributes:
        active: transactions under way.
    """

    loop: SimulationLoop
    scenario: Scenario
    verdict: Verdict
    dice: Dice
    rooms: dict[str, list[StoredMessage]] = attrs.field(factory=dict)
    by_key: dict[MessageKey, StoredMessage] = attrs.field(factory=dict)
    dead: dict[MessageKey, Message] = attrs.field(factory=dict)
    room_summary: Counter[str] = attrs.field(factory=Counter)
    user_summary: Counter[int] = attrs.field(factory=Counter)
    active: int = 0
    is_down: bool = False
    _heads: defaultdict[str, asyncio.Lock] = attrs.field(factory=lambda: defaultdict(asyncio.Lock))

    async def transact(self, fresh: Sequence[Message], owner: Process) -> list[StoredMessage] | Exception:
        """One transaction; what it raised is returned, since its caller may have gone."""
        locked: list[str] = []
        self.active += 1
        try:
            await self._pause()
            await self._lock_heads(fresh, locked)
            return await self._insert(fresh, owner)
        except (ChatflowError, AlreadyStored) as exc:
            return exc
        finally:
            self.active -= 1
            for room in locked:
                self._heads[room].release()

    async def _lock_heads(self, fresh: Sequence[Message], locked: list[str]) -> None:
        for room in sorted({message.room_id for message in fresh}):
            try:
                async with asyncio.timeout(LOCK_WAIT_S):
                    await self._heads[room].acquire()
            except TimeoutError as exc:
                raise StoreUnavailable("lock wait timeout") from exc
            locked.append(room)
            await self._pause()

    async def _insert(self, fresh: Sequence[Message], owner: Process) -> list[StoredMessage]:
        rows = self._number(fresh)
        await self._pause()
        if any(is_poison(message) for message in fresh):
            raise RowRejected("a value is out of range")
        self._check_unique(rows)
        await self._pause()
        if self.dice.meets(self.scenario.weather.write_failed):
            raise StoreUnavailable("the transaction was rolled back")
        if self.is_down or (not owner.is_alive and self.dice.rng.random() < 0.5):
            raise StoreUnavailable("the connection was lost")
        self._commit(rows)
        await self._pause()
        return rows

    def _number(self, fresh: Sequence[Message]) -> list[StoredMessage]:
        heads = {room: len(rows) for room, rows in self.rooms.items()}
        rows = []
        for message in fresh:
            heads[message.room_id] = seq = heads.get(message.room_id, 0) + 1
            rows.append(StoredMessage(message, seq))
        return rows

    def _commit(self, rows: Sequence[StoredMessage]) -> None:
        """All at once: rows, heads and summaries."""
        self._check_unique(rows)
        for row in rows:
            self.rooms.setdefault(row.message.room_id, []).append(row)
            self.by_key[row.message.key] = row
        self.room_summary.update(row.message.room_id for row in rows)
        self.user_summary.update(row.message.user_id for row in rows)

    def _check_unique(self, rows: Sequence[StoredMessage]) -> None:
        """The clustered key first, as a database does."""
        for row in rows:
            if row.seq <= len(self.rooms.get(row.message.room_id, ())):
                self.verdict.wrong(f"two writers gave {row.seq} in room {row.message.room_id}")
                raise SequenceCollision(f"{row.message.room_id}, {row.seq}")
        if any(row.message.key in self.by_key for row in rows):
            raise AlreadyStored

    async def _pause(self) -> None:
        await asyncio.sleep(self.dice.latency() / 2)


@attrs.define(eq=False)
class SimulatedStore:
    """One process' connections: both sides of the store."""

    server: StoreServer
    process: Process
    dice: Dice

    async def append_batch(self, messages: Sequence[Message]) -> Appended:
        distinct: dict[MessageKey, Message] = {}
        for message in messages:
            distinct.setdefault(message.key, message)
        known: dict[MessageKey, StoredMessage] = {}
        while True:
            fresh = [message for message in distinct.values() if message.key not in known]
            try:
                rows = await self._transaction(fresh) if fresh else []
            except AlreadyStored:
                known |= await self.locate([message.key for message in fresh])
                continue
            stored = known | {row.message.key: row for row in rows}
            return Appended(tuple(stored[each] for each in distinct), len(messages) - len(rows))

    async def add_dead_letter(self, message: Message, reason: str) -> None:
        await self._read(lambda: self.server.dead.setdefault(message.key, message))

    async def ping(self) -> None:
        await self._read(lambda: None)

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        rooms = self.server.rooms
        return await self._read(lambda: {room: len(rooms[room]) for room in room_ids if room in rooms})

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        return await self._read(lambda: self.server.rooms.get(room_id, [])[after_seq : after_seq + limit])

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        by_key: Mapping[MessageKey, StoredMessage] = self.server.by_key
        return await self._read(lambda: {each: by_key[each] for each in keys if each in by_key})

    async def _transaction(self, fresh: Sequence[Message]) -> list[StoredMessage]:
        weather = self.server.scenario.weather
        if self.server.is_down:
            await asyncio.sleep(self.dice.latency())
            raise StoreUnavailable("down")
        outcome = await self._run(self.server.transact(fresh, self.process))
        if isinstance(outcome, Exception):
            raise outcome
        if self.dice.meets(weather.outcome_lost):
            raise StoreUnavailable("committed, but who knows")
        return outcome

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the server, or hang up while it goes on by itself."""
        task = self.server.loop.spawn(self.server.loop.world, work)
        if not self.dice.meets(self.server.scenario.weather.hung_up):
            return await asyncio.shield(task)
        await asyncio.wait((task,), timeout=self.dice.latency())
        raise StoreUnavailable("the connection broke")

    async def _read(self, look: Callable[[], T]) -> T:
        await asyncio.sleep(self.dice.latency())
        if self.server.is_down or self.dice.meets(self.server.scenario.weather.read_failed):
            raise StoreUnavailable("the read failed")
        seen = look()
        await asyncio.sleep(self.dice.latency())
        return seen
