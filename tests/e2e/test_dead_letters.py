"""What an operator does about dead letters of a fleet: list, show, mend the cause, replay; on RabbitMQ and MariaDB."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import attrs
import pytest
from sqlalchemy import make_url

from chatflow.adapters.rabbitmq.broker import RabbitBroker, open_broker
from chatflow.adapters.rabbitmq.codec import SCHEMA_HEADER, encode_messages
from chatflow.adapters.rabbitmq.topology import DEAD, INGEST
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.persistence.replay import Outcome, Republisher
from chatflow.entrypoints.cli.database import open_existing
from chatflow.entrypoints.cli.dead_letters import list_dead, replay_dead, show_dead
from chatflow.entrypoints.cli.maintenance import run_audit
from chatflow.entrypoints.clocks import new_id, now_us
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common, load_settings
from chatflow.ports.broker import Envelope, envelope_of
from chatflow.ports.errors import BrokerUnavailable
from chatflow.ports.messages import Message
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.process import clean_environ, command
from tests.harness.proxy import FaultProxy

WAIT_S = 40.0
DEAD_IN_TIME = 101
"""Deliveries after which an envelope is put aside: one more than the limit."""


@attrs.frozen(eq=False)
class Operator:
    """A shell with the settings of a fleet that is migrated and not started, and a look into its servers."""

    fleet: Fleet
    server: MariaServer

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.fleet.run, *arguments)

    @property
    def common(self) -> Common:
        return load_settings("tool", self.fleet.common, dotenv=None).common

    async def listed(self, *, include_resolved: bool = False) -> list[dict[str, Any]]:
        """What ``dlq list --json`` prints, without the price of a process."""
        listing = await list_dead(self.common, limit=100, include_resolved=include_resolved)
        assert listing.unread == ""
        rows: list[dict[str, Any]] = json.loads(json.dumps([row.as_json() for row in listing.rows]))
        return rows

    async def until_listed(self, count: int, **fields: object) -> list[dict[str, Any]]:
        """Wait until so many letters have these fields, and nothing else is listed."""
        async with asyncio.timeout(WAIT_S):
            while True:
                await asyncio.sleep(0.1)
                rows = await self.listed()
                if len(rows) == count and all(row[name] == value for row in rows for name, value in fields.items()):
                    return rows

    async def add_dead_letter(self, message: Message) -> dict[str, Any]:
        """What a processor does with a message that cannot be stored; as it is listed."""
        async with open_existing(self.common) as database:
            await SqlMessageStore(database, now_us, summaries=True).add_dead_letter(message, "a reason")
        return (await self.listed())[-1]

    async def show(self, letter_id: str) -> dict[str, Any]:
        result = await self.run("dlq", "show", letter_id)
        assert result.returncode == 0, result.stderr
        shown: dict[str, Any] = json.loads(result.stdout)
        return shown

    async def replay(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        result = await self.run("dlq", "replay", "--json", *arguments)
        assert not result.stderr.startswith("chatflow:"), result.stderr
        return result.returncode, json.loads(result.stdout)

    def sql(self, statements: str) -> list[list[str]]:
        return self.server.execute(statements, str(make_url(self.fleet.database_url).database))

    def ids(self) -> list[str]:
        """Of everything stored, as often as it is stored."""
        return sorted(row[0] for row in self.sql("SELECT LOWER(HEX(message_id)) FROM messages"))

    async def until_stored(self, *messages: Message) -> None:
        expected = sorted(each.message_id.replace("-", "") for each in messages)
        async with asyncio.timeout(WAIT_S):
            while self.ids() != expected:
                await asyncio.sleep(0.2)

    async def drained(self) -> None:
        """Stop the processors once they have stored what they took, and let the audit agree."""
        codes = await self.fleet.stop()
        assert set(codes.values()) == {0}
        assert (await run_audit(self.common, None)).is_clean

    async def start(self) -> None:
        """Start the processor."""
        for role in self.fleet.roles.values():
            role.start()
            await role.ready()

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[RabbitBroker]:
        broker = open_broker([self.fleet.broker_url], partitions=8, queue_limit_bytes=67_108_864)
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()

    async def publish(self, *messages: Message) -> None:
        async with self.broker() as broker:
            for each in messages:
                await broker.publish(envelope_of(partition_of(each.room_id, 8), [each]))

    async def publish_raw(self, exchange: str, body: bytes, key: str = "0", **headers: int) -> None:
        async with await aio_pika.connect(self.fleet.broker_url) as connection, connection.channel() as channel:
            target = await channel.get_exchange(exchange)
            await target.publish(aio_pika.Message(body, headers=dict(headers)), key)


@pytest.fixture
async def operator(
    tmp_path: Path, vhost_url: str, maria_url: str, maria_server: MariaServer
) -> AsyncIterator[Operator]:
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=0, processors=1)
    fleet.directory.mkdir(exist_ok=True)
    operator = Operator(fleet, maria_server)
    await asyncio.to_thread(migrate.upgrade, maria_url)
    yield operator
    fleet.kill()


@pytest.fixture
def proxied(operator: Operator, fault_proxy) -> FaultProxy:
    """The operator's way to the broker."""
    proxy = fault_proxy(operator.fleet.broker_url)
    operator.fleet.broker_url = proxy.url(operator.fleet.broker_url)
    return proxy


def message(text: str = "hi", room: str = "lobby") -> Message:
    return Message(new_id(), room, 7, "ada", text, "TEXT", now_us(), now_us(), "gw-1", "10.0.0.1")


def forbid(operator: Operator, word: str) -> None:
    operator.sql(f"ALTER TABLE messages ADD CONSTRAINT no_{word} CHECK (content NOT LIKE '%{word}%')")


def allow(operator: Operator, word: str) -> None:
    operator.sql(f"ALTER TABLE messages DROP CONSTRAINT no_{word}")


async def put_aside(operator: Operator, *messages: Message) -> None:
    """Give one envelope out until the broker has enough of it."""
    partition = partition_of(messages[0].room_id, 8)
    async with operator.broker() as broker:
        await broker.publish(envelope_of(partition, messages))
        for _ in range(DEAD_IN_TIME):
            consumer = await broker.consume(partition, prefetch=1)
            async with asyncio.timeout(WAIT_S):
                await consumer.receive()
            await consumer.close()


async def test_a_poisonous_message_is_listed_shown_replayed_in_vain_and_stored_once_its_cause_is_mended(
    operator: Operator,
) -> None:
    forbid(operator, "poison")
    await operator.start()
    good, bad = message("good"), message("poison")
    await operator.publish(good, bad)
    (row,) = await operator.until_listed(1)
    assert (row["source"], row["messageIds"], row["retryCount"], row["resolved"]) == (
        "database",
        [bad.message_id],
        0,
        False,
    )
    assert bad.message_id in (await operator.run("dlq", "list")).stdout
    shown = await operator.show(row["id"])
    assert shown["original"] == attrs.asdict(bad)
    assert "no_poison" in shown["reason"]

    code, (result,) = await operator.replay(row["id"])
    assert (result["messageIds"], result["seq"]) == ([bad.message_id], None)
    assert (code, result["outcome"]) in {(0, "published"), (1, "refused")}  # refused before it was resolved, or after
    (again,) = await operator.until_listed(1, retryCount=1)
    assert (again["id"], again["resolved"], again["createdAt"]) == (row["id"], False, row["createdAt"])
    await operator.until_stored(good)

    allow(operator, "poison")
    for _ in range(2):  # the second one changes nothing
        code, (result,) = await operator.replay(row["id"])
        assert (code, result["outcome"], result["id"]) == (0, "published", row["id"])
        await operator.until_stored(good, bad)
        assert await operator.listed() == []
    (settled,) = await operator.listed(include_resolved=True)
    assert (settled["resolved"], settled["retryCount"]) == (True, 3)
    await operator.drained()
    await operator.until_stored(good, bad)


async def test_many_rows_are_replayed_at_once(operator: Operator) -> None:
    forbid(operator, "poison")
    await operator.start()
    bad = [message("poison", f"room-{n % 5}") for n in range(20)]
    await operator.publish(*bad)
    await operator.until_listed(20)
    allow(operator, "poison")
    some = [row["id"] for row in await operator.listed()][:3]
    code, results = await operator.replay(*some, some[0])
    assert (code, [result["id"] for result in results]) == (0, some)
    result = await operator.run("dlq", "replay", "--all")
    assert result.stdout.splitlines()[-1] == "17 published, 0 refused"
    await operator.until_stored(*bad)
    assert (await operator.run("dlq", "list")).stdout == "no dead letters\n"
    assert (await operator.run("dlq", "replay", "--all")).stdout == "0 published, 0 refused\n"
    await operator.drained()


async def test_a_command_killed_between_the_confirm_and_the_end_leaves_the_row_open_and_doubles_nothing(
    operator: Operator,
) -> None:
    forbid(operator, "poison")
    await operator.start()
    bad = message("poison")
    await operator.publish(bad)
    (row,) = await operator.until_listed(1)
    allow(operator, "poison")
    stall = "SET @slept = IF(NEW.resolved, SLEEP(60), 0)"
    operator.sql(f"CREATE TRIGGER stall BEFORE UPDATE ON dead_letter_messages FOR EACH ROW {stall}")
    environ = clean_environ(operator.fleet.common)
    dying = subprocess.Popen(command("dlq", "replay", "--all"), env=environ, cwd=operator.fleet.directory)
    try:
        await operator.until_stored(bad)
        assert dying.poll() is None
    finally:
        dying.kill()
        dying.wait()
    for (number,) in operator.sql(
        "SELECT id FROM information_schema.processlist WHERE info LIKE 'UPDATE dead_letter%'"
    ):
        operator.sql(f"KILL {number}")
    operator.sql("DROP TRIGGER stall")
    (again,) = await operator.listed()
    assert (again["id"], again["resolved"]) == (row["id"], False)
    code, (result,) = await operator.replay(row["id"])
    assert (code, result["outcome"]) == (0, "published")
    assert await operator.listed() == []
    await operator.drained()
    await operator.until_stored(bad)


async def test_an_envelope_given_out_too_often_is_listed_shown_and_replayed_once(operator: Operator) -> None:
    sent = [message("one"), message("two"), message("three")]
    await put_aside(operator, *sent)
    await operator.start()
    (row,) = await operator.until_listed(1)
    assert (row["source"], row["messageIds"]) == ("broker", [each.message_id for each in sent])
    queue = f"{INGEST}.{partition_of('lobby', 8)}"
    assert "delivery_limit" in row["reason"]
    assert queue in row["reason"]
    assert "3 messages" in (await operator.run("dlq", "list")).stdout
    shown = await operator.show(row["id"])
    assert (shown["reason"], shown["queue"], shown["count"]) == ("delivery_limit", queue, 1)
    assert shown["unreadable"] is None
    assert shown["original"] == [attrs.asdict(each) for each in sent]
    assert operator.ids() == []

    code, (result,) = await operator.replay(row["id"])
    assert (code, result["outcome"], result["messageIds"]) == (0, "published", row["messageIds"])
    await operator.until_stored(*sent)
    assert await operator.listed() == []
    gone = await operator.run("dlq", "replay", row["id"])
    assert (gone.returncode, gone.stdout) == (2, "")
    assert row["id"] in gone.stderr
    await operator.drained()
    assert [row[0] for row in operator.sql("SELECT content FROM messages ORDER BY seq")] == ["one", "two", "three"]


@attrs.define(eq=False)
class CutAfterConfirm:
    """A broker whose connections are lost just after a confirm, as in a process that is killed there."""

    broker: RabbitBroker
    proxy: FaultProxy

    async def publish(self, envelope: Envelope) -> None:
        await self.broker.publish(envelope)
        await asyncio.to_thread(self.proxy.cut)


async def test_an_envelope_that_is_cut_off_between_the_confirm_and_its_end_stays_and_doubles_nothing(
    operator: Operator, proxied: FaultProxy
) -> None:
    sent = [message("one"), message("two")]
    key = str(partition_of("lobby", 8))
    await operator.start()
    await operator.publish_raw(DEAD, encode_messages(tuple(sent)), key, **{SCHEMA_HEADER: 1})
    async with operator.broker() as broker:
        dead = broker.dead()
        letter = await dead.take()
        assert letter is not None
        with pytest.raises(BrokerUnavailable):
            await Republisher(CutAfterConfirm(broker, proxied), None, None, 8).replay_envelope(letter, dead)
        await dead.close()
    await operator.until_stored(*sent)
    (row,) = await operator.until_listed(1)
    code, (result,) = await operator.replay("--all")
    assert (code, result["id"], result["outcome"]) == (0, row["id"], "published")
    assert await operator.listed() == []
    await operator.drained()
    await operator.until_stored(*sent)


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b"not JSON", "not JSON"), (b'{"a":1}', {"a": 1}), (b"\xff\xfe", {"base64": "//4="})],
)
async def test_garbage_is_listed_and_shown_as_it_is_and_stays_when_it_is_replayed(
    operator: Operator, body: bytes, shown: object
) -> None:
    async with operator.broker() as broker:
        await operator.publish_raw(INGEST, body, **{SCHEMA_HEADER: 1})
        await operator.publish(end := message(room="4"))
        assert partition_of("4", 8) == 0
        consumer = await broker.consume(0, prefetch=10)
        assert (await consumer.receive()).envelope.messages == (end,)
        await consumer.close()
    (row,) = await operator.until_listed(1)
    assert (row["source"], row["messageIds"]) == ("broker", [])
    seen = await show_dead(operator.common, row["id"])
    assert (seen["original"], seen["reason"], seen["queue"], seen["count"]) == (shown, "rejected", f"{INGEST}.0", 1)
    assert seen["unreadable"]
    code, (result,) = await operator.replay("--all")
    assert (code, result["outcome"]) == (1, "refused")
    assert "cannot be read" in result["reason"]
    (again,) = (await replay_dead(operator.common, [row["id"]])).results
    assert again.outcome is Outcome.REFUSED
    assert await operator.listed() == [row]


async def test_a_broker_that_is_away_is_said_so_beside_what_the_database_has(
    operator: Operator, proxied: FaultProxy
) -> None:
    async with operator.broker():
        row = await operator.add_dead_letter(message())
    proxied.refuse()
    listed = await operator.run("dlq", "list", "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (1, [row])
    (line,) = listed.stderr.splitlines()
    assert line.startswith("chatflow: the broker's dead letters are not shown: connect to 127.0.0.1")
    assert (await operator.run("dlq", "show", row["id"])).returncode == 0
    for asked in (("show", "b-0123456789ab"), ("replay", row["id"])):
        result = await operator.run("dlq", *asked)
        (line,) = [line for line in result.stderr.splitlines() if not line.startswith("{")]
        assert (result.returncode, result.stdout) == (2, "")
        assert line.startswith("chatflow: connect to 127.0.0.1")
    proxied.heal()
    (again,) = await operator.listed()
    assert again == row


async def test_wrong_names_are_one_line_and_nothing_is_tried(operator: Operator) -> None:
    async with operator.broker():
        row = await operator.add_dead_letter(message())
    for wrong in ("99", "b-0123456789ab", "nonsense", "9" * 30):
        with pytest.raises(StartError, match=wrong):
            await show_dead(operator.common, wrong)
        with pytest.raises(StartError, match=wrong):
            await replay_dead(operator.common, [row["id"], wrong])
    for asked in (("show", "b-0123456789ab"), ("replay", row["id"], "b-0123456789ab")):
        result = await operator.run("dlq", *asked)
        (line,) = [line for line in result.stderr.splitlines() if not line.startswith("{")]
        assert (result.returncode, result.stdout) == (2, "")
        assert line == "chatflow: there is no dead letter b-0123456789ab"
    assert await operator.listed() == [row]
