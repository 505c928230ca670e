"""What must add up once everything has come to rest."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.simulation.client import Client, Lane
from tests.simulation.store import StoreServer


def final_findings(store: StoreServer, clients: Sequence[Client]) -> list[str]:
    """What does not."""
    findings = list(_rows(store)) + list(_summaries(store))
    for client in clients:
        for lane in client.lanes.values():
            findings += _lost(store, client, lane)
            if not lane.is_forfeited:
                findings += _disordered(store, client, lane)
    return findings


def _rows(store: StoreServer) -> Iterator[str]:
    keys = Counter(row.message.key for rows in store.rooms.values() for row in rows)
    yield from (f"{key} is stored {count} times" for key, count in keys.items() if count > 1)
    for room, rows in store.rooms.items():
        seqs = [row.seq for row in rows]
        if seqs != list(range(1, len(rows) + 1)):
            yield f"room {room} is numbered {seqs}"


def _summaries(store: StoreServer) -> Iterator[str]:
    rooms = Counter({room: len(rows) for room, rows in store.rooms.items()})
    users = Counter(row.message.user_id for rows in store.rooms.values() for row in rows)
    if store.room_summary != rooms:
        yield f"rooms are summed up as {store.room_summary}, they are {rooms}"
    if store.user_summary != users:
        yield f"users are summed up as {store.user_summary}, they are {users}"


def _lost(store: StoreServer, client: Client, lane: Lane) -> Iterator[str]:
    """Each acked message is stored as it was sent, or is a dead letter if it is poison."""
    for number, message_id in lane.acked.items():
        text = lane.texts[number]
        key = message_id, client.user_id
        row, letter = store.by_key.get(key), store.dead.get(key)
        kept, other = (letter, row) if text.startswith("poison") else (row and row.message, letter)
        if kept is None:
            yield f"{message_id} ({text}) was acked to {client.name} and is lost"
        elif other is not None or (kept.room_id, kept.user_id, kept.text) != (lane.room, client.user_id, text):
            yield f"{message_id} ({text}) was acked to {client.name} and is {kept}, {other}"


def _disordered(store: StoreServer, client: Client, lane: Lane) -> Iterator[str]:
    """What is stored came in the order in which it was first sent, and nothing overtook what is not stored.

    Who gives no ids may have a repeated message twice: the first counts.
    """
    own = [row.message.text for row in store.rooms.get(lane.room, ()) if row.message.user_id == client.user_id]
    stored = list(dict.fromkeys(own))
    sent = [lane.texts[number] for number in sorted(lane.sent) if not lane.texts[number].startswith("poison")]
    if stored != sent[: len(stored)]:
        yield f"{client.name} sent {sent} to room {lane.room} in order, stored is {stored}"
