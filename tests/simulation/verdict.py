"""What must never happen, checked while it might."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.messages import Message, MessageKey, StoredMessage
from tests.simulation.loop import SimulationLoop

if TYPE_CHECKING:
    from tests.simulation.store import StoreServer


@attrs.define(eq=False)
class Verdict:
    """Collects what was wrong; the first finding ends the run."""

    loop: SimulationLoop
    findings: list[str] = attrs.field(factory=list)
    store: "StoreServer | None" = None

    def wrong(self, finding: str) -> None:
        self.findings.append(f"at {self.loop.time():.4f} s: {finding}")
        self.loop.halted = True

    def check(self, holds: object, finding: str) -> None:
        if not holds:
            self.wrong(finding)

    def on_broker_ack(self, messages: Sequence[Message]) -> None:
        """The broker forgets an envelope: all of it must be stored or dead-lettered."""
        assert self.store is not None
        for message in messages:
            known = message.key in self.store.by_key or message.key in self.store.dead
            self.check(known, f"{message.key} was acked to the broker and is not stored")

    def on_live(self, messages: Sequence[StoredMessage]) -> None:
        """What is broadcast is stored, under this number."""
        assert self.store is not None
        for stored in messages:
            row = self.store.by_key.get(stored.message.key)
            self.check(row == stored, f"{stored.message.key} was broadcast as {stored.seq}, stored as {row}")

    def on_client_ack(self, answer: Mapping[str, object], user_id: int, confirmed: set[MessageKey]) -> None:
        """A gateway tells a client that its message is durable, or stored as a number."""
        assert self.store is not None
        key, seq = (str(answer.get("id") or answer.get("messageId")), user_id), answer.get("seq")
        row = self.store.by_key.get(key)
        if seq is not None:
            self.check(row and row.seq == seq, f"{key} was acked as stored at {seq}, it is {row}")
        else:
            self.check(key in confirmed, f"{key} was acked before its confirm")

    def on_delivery(self, item: Mapping[str, object], expected_seq: int) -> None:
        """A client sees a message of a room that it joined."""
        assert self.store is not None
        room, seq = str(item["room"]), item["seq"]
        self.check(seq == expected_seq, f"room {room} delivered {seq} where {expected_seq} is next")
        row = self.store.by_key.get((str(item["id"]), int(str(item["userId"]))))
        same = row and (row.seq, row.message.room_id, row.message.text) == (seq, room, item["text"])
        self.check(same, f"{item['id']} was delivered as {seq} of room {room}, it is {row}")
