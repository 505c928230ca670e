"""The broker full, silent or away: senders wait, are told to retry, and keep their order over it all."""

import asyncio
import random

import attrs
import pytest

from chatflow.domain.ingest.fairness import SenderShare
from chatflow.ports.errors import BrokerUnavailable
from tests.harness.waiting import eventually
from tests.harness.ws_client import WsClient
from tests.integration.gateway_harness import chat, new_id, open_gateway, send

IMPATIENT = {"broker": {"confirm_timeout_s": 0.05}, "publisher": {"patience_s": 0.2}, "breaker": {"failures": 10_000}}
UNAVAILABLE = "Message queue unavailable, please retry"


async def test_a_publish_waits_for_a_processor_that_comes_back_within_the_patience():
    async with open_gateway(processing=False) as gateway, gateway.session() as peer, gateway.peer("/chat/b") as other:
        await peer.send(send("a", ref=1))
        await other.send(chat())
        await eventually(lambda: gateway.context.publisher.pending_bytes)
        await peer.silence()
        gateway.start_processor()
        assert (await peer.expect("ack"))["ref"] == 1
        assert (await other.receive())["status"] == "success"


async def test_after_the_patience_each_sender_is_told_to_retry_in_the_words_of_its_protocol():
    async with (
        open_gateway(processing=False, **IMPATIENT) as gateway,
        gateway.session() as peer,
        gateway.peer("/chat/b") as other,
    ):
        await peer.send(send("a", ref=1), send("a", ref=2, ack="stored"))
        await other.send(chat(n=1))
        for ref in (1, 2):
            refused = await peer.expect("error")
            assert (refused["ref"], refused["code"], refused["retryable"]) == (ref, "unavailable", True)
        reply = await other.receive()
        assert (reply["status"], reply["errorMessage"]) == ("error", UNAVAILABLE)
        assert reply["originalMessage"]["n"] == 1
        assert gateway.ingest.queue_failures > 2


async def test_a_queue_at_its_byte_limit_is_busy_and_takes_the_same_ids_once_there_is_room():
    async with (
        open_gateway(broker={"limit_bytes": 500}, publisher={"patience_s": 0.05}) as gateway,
        gateway.session() as peer,
        gateway.peer("/chat/a") as other,
    ):
        mine, yours = new_id(), new_id()
        await peer.send(send("a", "x" * 500, ref=1, id=mine))
        refused = await peer.expect("error")
        assert (refused["ref"], refused["code"], refused["retryable"]) == (1, "busy", True)
        await other.send(chat(message="x" * 500, messageId=yours))
        assert (await other.receive())["errorMessage"] == UNAVAILABLE
        gateway.broker.limit_bytes = 2**20
        await peer.send(send("a", "x" * 500, ref=2, id=mine))
        assert (await peer.expect("ack"))["id"] == mine
        await other.send(chat(message="x" * 500, messageId=yours))
        assert (await other.receive())["messageId"] == yours
        assert gateway.store.ids("a") == [mine, yours]


async def test_an_open_breaker_refuses_at_once_and_one_probe_closes_it():
    breaker = {"failures": 1, "reset_s": 0.3}
    async with (
        open_gateway(processing=False, **{**IMPATIENT, "breaker": breaker}) as gateway,
        gateway.session() as peer,
        gateway.peer("/chat/b") as other,
    ):
        await peer.send(send("a", ref=1))
        assert (await peer.expect("error"))["code"] == "unavailable"
        failures = gateway.ingest.queue_failures
        await other.send(chat())
        assert (await other.receive())["errorMessage"] == UNAVAILABLE
        assert gateway.ingest.queue_failures == failures
        gateway.start_processor()
        await Retrying(peer, "c", 3, window=1).run(random.Random(0))
        assert gateway.texts("c") == ["0", "1", "2"]


async def test_a_sender_that_is_faster_than_the_broker_is_slowed_and_nothing_is_refused():
    async with (
        open_gateway(processing=False, publisher={"limit_bytes": 50_000}) as gateway,
        gateway.session() as peer,
    ):
        sending = asyncio.create_task(peer.send(*(send("a", "x" * 300, ref=n) for n in range(2_000))))
        await eventually(lambda: gateway.context.publisher.is_congested(SenderShare()))
        assert gateway.context.publisher.pending_bytes < 50_000
        gateway.start_processor()
        assert [(await peer.expect("ack"))["ref"] for _ in range(2_000)] == list(range(2_000))
        await sending


@attrs.define(eq=False)
class Retrying:
    """A client as real ones are: sends on while it waits, repeats in order with the same ids what it must retry."""

    peer: WsClient
    room: str
    count: int
    window: int = 32
    ids: list[str] = attrs.field(init=False)
    acked: set[int] = attrs.field(factory=set, init=False)
    refused: int = attrs.field(default=0, init=False)
    stored: bool = False

    def __attrs_post_init__(self) -> None:
        self.ids = [new_id() for _ in range(self.count)]

    async def run(self, rng: random.Random) -> None:
        todo, flying = list(range(self.count)), set()
        while todo or flying:
            while todo and len(flying) < self.window:
                ref = todo.pop(0)
                flying.add(ref)
                await self.peer.send(self._frame(ref))
                if rng.random() < 0.1:
                    await asyncio.sleep(rng.random() * 0.002)
            again = await self._answers(flying)
            if again:
                # Stop, let everything that is under way be answered, and go back to the oldest.
                while flying:
                    again += await self._answers(flying)
                todo = sorted({*again, *todo})
                await asyncio.sleep(rng.random() * 0.03)

    def _frame(self, ref: int):
        return send(self.room, str(ref), ref=ref, id=self.ids[ref], ack="stored" if self.stored else "durable")

    async def _answers(self, flying: set[int]) -> list[int]:
        value = await self.peer.receive()
        flying.discard(value["ref"])
        if value["op"] == "ack":
            assert value["id"] == self.ids[value["ref"]]
            self.acked.add(value["ref"])
            return []
        assert value["retryable"], value
        self.refused += 1
        return [value["ref"]]


@attrs.define(eq=False)
class Impatient(Retrying):
    """Never stops: each refusal is repeated as soon as it is read, while new messages are on their way."""

    async def run(self, rng: random.Random) -> None:
        todo, flying = list(range(self.count)), set()
        while todo or flying:
            while todo and len(flying) < self.window:
                ref = todo.pop(0)
                flying.add(ref)
                await self.peer.send(self._frame(ref))
            again = await self._answers(flying)
            while self.peer._ahead or self.peer.connection.recv_messages.frames:
                again += await self._answers(flying)
            todo = sorted({*again, *todo})
            await asyncio.sleep(rng.random() * 0.001)


@attrs.define(eq=False)
class RetryingChat(Retrying):
    """The same over ``/chat``, whose replies come in the order of the frames."""

    def _frame(self, ref: int):
        return chat(message=str(ref), messageId=self.ids[ref], n=ref)

    async def _answers(self, flying: set[int]) -> list[int]:
        reply = await self.peer.receive()
        ref = reply["originalMessage"]["n"]
        flying.discard(ref)
        if reply["status"] == "success":
            assert reply["messageId"] == self.ids[ref]
            self.acked.add(ref)
            return []
        assert reply["errorMessage"] == UNAVAILABLE
        self.refused += 1
        return [ref]


async def disturb(gateway, rng, until_done):
    """Processor killed and started, publishes that fail, a queue without room: in turns, until the clients are done."""
    publish = gateway.broker.publish

    async def failing(envelope):
        if rng.random() < 0.7:
            await asyncio.sleep(0)
            raise BrokerUnavailable("cut")
        await publish(envelope)

    object.__setattr__(gateway.context.publisher, "broker", broker := Switch(publish))
    while not until_done():
        fault = rng.randrange(3)
        if fault == 0:
            await gateway.stop_processor()
        elif fault == 1:
            broker.publish = failing
        else:
            gateway.broker.limit_bytes = 300
        await asyncio.sleep(0.02 + rng.random() * 0.15)
        broker.publish, gateway.broker.limit_bytes = publish, 2**26
        if gateway._processing is None:
            gateway.start_processor()
        await asyncio.sleep(rng.random() * 0.03)


@attrs.define(eq=False)
class Switch:
    """Stands where the publisher's broker was."""

    publish: object


@pytest.mark.parametrize("seed", range(4))
async def test_over_random_faults_every_message_is_stored_once_in_the_order_its_sender_sent_it(seed):
    rng = random.Random(seed)
    async with (
        open_gateway(
            broker={"confirm_timeout_s": 0.03},
            publisher={"patience_s": 0.04, "envelope_messages": 7},
            breaker={"failures": 8, "reset_s": 0.05},
        ) as gateway,
        gateway.session(user_id=1) as one,
        gateway.session(user_id=2) as two,
        gateway.session(user_id=3) as three,
        gateway.peer("/chat/c") as four,
        gateway.session(user_id=5) as watcher,
    ):
        await watcher.send([{"op": "join", "room": room, "since": 0} for room in "abcd"])
        clients = [
            Retrying(one, "a", 300),
            Retrying(two, "b", 300, stored=True),
            RetryingChat(four, "c", 300),
            Impatient(three, "d", 300),
        ]
        tasks = [asyncio.create_task(client.run(random.Random(seed + n))) for n, client in enumerate(clients)]
        disturbing = asyncio.create_task(disturb(gateway, rng, lambda: all(task.done() for task in tasks)))
        await asyncio.gather(*tasks)
        await disturbing
        seen: dict[str, list[int]] = {room: [] for room in "abcd"}
        for message in await watcher.collect("message", 1_200):
            seen[message["room"]].append(message["seq"])
        assert seen == {room: list(range(1, 301)) for room in "abcd"}
        assert sum(client.refused for client in clients) > 50
        for client in clients:
            assert client.acked == set(range(300))
            assert gateway.texts(client.room) == [str(n) for n in range(300)], client
