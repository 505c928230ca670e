"""Mistakes that a simulation must notice, made on purpose: each breaks one thing that a promise rests on."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from chatflow.domain.delivery.room_hub import RoomHub, _CatchUp
from chatflow.domain.delivery.sequencer import RoomSequencer
from chatflow.domain.ingest.pending import PendingPublishes
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.sender_order import SenderOrder
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.persistence.partition_processor import PartitionProcessor
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.session.resend_guard import ResendGuard
from chatflow.ports.broker import Envelope, LiveEnvelope
from chatflow.ports.errors import BrokerError, Refusal, StoreUnavailable
from chatflow.ports.messages import StoredMessage
from tests.simulation.store import SimulatedStore, StoreServer

Replace = Callable[[type, str, Any], None]
"""``monkeypatch.setattr``."""


def ack_before_the_confirm(replace: Replace) -> None:
    async def flush(self: IngestPublisher, partition: int, pending: PendingPublishes) -> None:
        batch, size = pending.take(self.envelope_messages, self.envelope_bytes)
        self._accept(batch)
        with contextlib.suppress(BrokerError, Refusal):
            await self._publish(Envelope(partition, tuple([taken[0] for taken in batch]), size))
        self._settled(size)

    replace(IngestPublisher, "_flush", flush)


def refuse_only_what_was_out(replace: Replace) -> None:
    replace(PendingPublishes, "take_all", lambda self: ([], 0))


def two_envelopes_in_flight(replace: Replace) -> None:
    flush = IngestPublisher._flush

    async def flush_two(self: IngestPublisher, partition: int, pending: PendingPublishes) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flush(self, partition, pending))
            await asyncio.sleep(0.002)
            if pending:
                tasks.create_task(flush(self, partition, pending))

    replace(IngestPublisher, "_flush", flush_two)


def no_fence(replace: Replace) -> None:
    replace(ResendGuard, "admits", lambda self, room_id, message_id: True)


def a_fence_of_pings_alone(replace: Replace) -> None:
    replace(SenderOrder, "admits", lambda self, room_id, message_id: True)


def the_time_to_repeat_begins_untold(replace: Replace) -> None:
    replace(SenderOrder, "hold", lambda self, room_id, message_id: None)


def ack_the_broker_before_the_commit(replace: Replace) -> None:
    async def store(self: PartitionProcessor, stream: Any) -> None:
        while not stream.ended:
            await stream.has_work.wait()
            stream.has_work.clear()
            while (batch := stream.buffer.take(100)) is not None:
                if batch.ack is not None:
                    await stream.consumer.ack(batch.ack)
                await self._persist(batch)
                stream.buffer.commit(batch)
                self.metrics.buffered -= len(batch.messages)
                stream.has_room.set()

    replace(PartitionProcessor, "_store", store)


def ack_a_delivery_with_its_first_message(replace: Replace) -> None:
    commit = WriteBehindBuffer.commit

    def commit_early(self: WriteBehindBuffer, batch: Any) -> Any:
        first = self._deliveries[0]
        return commit(self, batch) or first

    replace(WriteBehindBuffer, "commit", commit_early)


def take_a_lost_outcome_for_a_commit(replace: Replace) -> None:
    persist = Persister.persist

    async def persist_once(self: Persister, partition: int, messages: Sequence[Any]) -> None:
        with contextlib.suppress(StoreUnavailable):
            await persist(self, partition, messages)

    replace(Persister, "persist", persist_once)


def number_without_the_head_lock(replace: Replace) -> None:
    async def lock_nothing(self: StoreServer, fresh: Sequence[Any], locked: list[str]) -> None:
        await self._pause()

    replace(StoreServer, "_lock_heads", lock_nothing)


def store_duplicates_again(replace: Replace) -> None:
    replace(StoreServer, "_check_unique", lambda self, rows: None)


def let_an_id_belong_to_whoever_used_it_first(replace: Replace) -> None:
    append = SimulatedStore.append_batch

    async def append_where_free(self: SimulatedStore, messages: Sequence[Any]) -> Any:
        users = dict(self.server.by_key)
        free = [each for each in messages if users.setdefault(each.message_id, each.user_id) == each.user_id]
        return await append(self, free)

    replace(SimulatedStore, "append_batch", append_where_free)


def take_anybodys_commit_for_ones_own(replace: Replace) -> None:
    def on_live(self: StoredAcks, envelope: LiveEnvelope) -> None:
        for stored in envelope.messages:
            for key in [key for key in self._waiting if key[0] == stored.message.message_id]:
                for _, waiter in self._waiting.pop(key):
                    waiter.told(stored)
                self.is_idle = not self._waiting

    replace(StoredAcks, "on_live", on_live)


def broadcast_only_what_is_new(replace: Replace) -> None:
    """What a crash kept from being broadcast then needs the comparison of heads, so that is broken too."""
    append = SimulatedStore.append_batch

    async def append_new(self: SimulatedStore, messages: Sequence[Any]) -> Any:
        before = set(self.server.by_key)
        appended = await append(self, messages)
        fresh = tuple(row for row in appended.stored if row.message.key not in before)
        return type(appended)(fresh, appended.duplicates)

    replace(SimulatedStore, "append_batch", append_new)
    hear_of_the_store_only_by_luck(replace)


def hear_of_the_store_only_by_luck(replace: Replace) -> None:
    async def resync(self: Any) -> None:
        await asyncio.sleep(0)

    replace(RoomHub, "resync", resync)


def never_ask_for_overdue_commits(replace: Replace) -> None:
    async def resync(self: Any) -> None:
        await asyncio.sleep(0)

    replace(StoredAcks, "resync", resync)


def deliver_over_gaps(replace: Replace) -> None:
    def offer(self: RoomSequencer, messages: Any) -> list[StoredMessage]:
        due = [stored for stored in messages if stored.seq > (self.last or 0)]
        self.last = max([self.last or 0, *(stored.seq for stored in due)])
        return due

    replace(RoomSequencer, "offer", offer)


def deliver_doubles(replace: Replace) -> None:
    def on_live(self: RoomHub, envelope: LiveEnvelope) -> None:
        for stored in envelope.messages:
            if room := self._rooms.get(stored.message.room_id):
                room.spread([stored])

    replace(RoomHub, "on_live", on_live)


def forget_what_came_during_the_replay(replace: Replace) -> None:
    replace(_CatchUp, "add", lambda self, messages: None)


def never_probe_an_open_circuit(replace: Replace) -> None:
    def retry_in_s(self: CircuitBreaker) -> float:
        return 0.0 if self.state.value == "CLOSED" else 1.0

    replace(CircuitBreaker, "retry_in_s", retry_in_s)


def lose_dead_letters(replace: Replace) -> None:
    async def add_dead_letter(self: SimulatedStore, message: Any, reason: str) -> None:
        await asyncio.sleep(0)

    replace(SimulatedStore, "add_dead_letter", add_dead_letter)


def no_end_to_the_buffer(replace: Replace) -> None:
    async def take_all(self: PartitionProcessor, stream: Any) -> None:
        try:
            while True:
                delivery = await stream.consumer.receive()
                stream.buffer.add(delivery)
                self.metrics.buffered += len(delivery.envelope.messages)
                stream.has_work.set()
        finally:
            stream.ended = True
            stream.has_work.set()

    replace(PartitionProcessor, "_take", take_all)


RARE: tuple[Callable[[Replace], None], ...] = (the_time_to_repeat_begins_untold,)
"""Noticed once in thousands of schedules."""

MUTANTS: tuple[Callable[[Replace], None], ...] = (
    ack_before_the_confirm,
    refuse_only_what_was_out,
    two_envelopes_in_flight,
    no_fence,
    a_fence_of_pings_alone,
    ack_the_broker_before_the_commit,
    ack_a_delivery_with_its_first_message,
    take_a_lost_outcome_for_a_commit,
    number_without_the_head_lock,
    store_duplicates_again,
    let_an_id_belong_to_whoever_used_it_first,
    take_anybodys_commit_for_ones_own,
    broadcast_only_what_is_new,
    hear_of_the_store_only_by_luck,
    never_ask_for_overdue_commits,
    deliver_over_gaps,
    deliver_doubles,
    forget_what_came_during_the_replay,
    never_probe_an_open_circuit,
    lose_dead_letters,
    no_end_to_the_buffer,
)
