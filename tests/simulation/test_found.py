"""What the simulation found, each as small as it gets: how a later message overtook a refused one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.adapters.websockets.driver import SessionDriver, drive_chat, drive_ws
from chatflow.adapters.websockets.frames import encode_json
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import BrokerUnavailable
from tests.unit.fakes import FakeGateway, hand_over, message_id, settle

OTHER_PARTITION = "elsewhere"


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway(settings={"inflight_per_connection": 1})
    gateway.broker.manual = True
    yield gateway
    await gateway.close()


@pytest.fixture
async def driver(gateway: FakeGateway) -> AsyncIterator[SessionDriver]:
    driver = drive_ws(WsSession(gateway.context, "", "s"), MemorySocket())
    hand_over(driver, '{"op":"hello","userId":7,"username":"ada"}')
    yield driver
    driver.close()


def send(driver: SessionDriver, number: int, room: str = "lobby", *, own_id: bool = True) -> None:
    fields = {"op": "send", "ref": number, "room": room, "text": "hi"}
    hand_over(driver, encode_json(fields | ({"id": message_id(number)} if own_id else {})).decode())


def say(chat: SessionDriver, number: int) -> None:
    fields = {
        "userId": 7,
        "username": "ada",
        "message": "hi",
        "messageType": "TEXT",
        "timestamp": "2026-11-24T01:31:00Z",
    }
    hand_over(chat, encode_json(fields | {"messageId": message_id(number)}).decode())


async def refuse(gateway: FakeGateway) -> None:
    await settle()
    gateway.broker.fail(BrokerUnavailable("no confirm"))
    await settle()


def attempts(gateway: FakeGateway, room: str = "lobby") -> int:
    return sum(message.room_id == room for envelope in gateway.broker.attempts for message in envelope.messages)


async def test_what_is_still_read_from_a_closing_connection_does_not_overtake(gateway, driver) -> None:
    send(driver, 1, own_id=False)
    await refuse(gateway)
    driver.socket.close(1012, "restarting")
    await settle()
    send(driver, 2, own_id=False)
    await settle()
    assert attempts(gateway) == 1


async def test_a_pong_says_nothing_of_frames_that_wait_behind_a_stalled_reader(gateway, driver) -> None:
    send(driver, 1, own_id=False)
    await refuse(gateway)
    send(driver, 2, OTHER_PARTITION, own_id=False)
    assert driver.session.inflight.is_stalled
    driver.socket.read()
    await settle()
    gateway.broker.confirm()
    send(driver, 3, own_id=False)  # had arrived before the pong
    await settle()
    assert attempts(gateway) == 1


async def test_a_place_is_kept_while_frames_wait_behind_a_stalled_reader(gateway, driver) -> None:
    send(driver, 1)
    await refuse(gateway)
    driver.socket.read()
    send(driver, 2, OTHER_PARTITION)
    assert driver.session.inflight.is_stalled
    await settle()
    gateway.clock.advance(3.0)
    gateway.broker.confirm()
    send(driver, 3)  # had arrived before 1 was refused
    await settle()
    assert attempts(gateway) == 1


async def test_a_repetition_that_waits_behind_a_stalled_reader_keeps_its_place(gateway, driver) -> None:
    send(driver, 1)
    await refuse(gateway)
    driver.socket.read()
    await settle()
    send(driver, 2, OTHER_PARTITION)
    reader = asyncio.create_task(driver.backpressure.resumed())
    await settle()
    gateway.clock.advance(3.0)
    gateway.broker.confirm()
    await reader
    send(driver, 3)  # the repeated 1 is right behind it
    await settle()
    assert attempts(gateway) == 1


async def test_a_place_is_kept_while_the_refusal_waits_for_an_earlier_answer(gateway, driver) -> None:
    gateway.publisher.limit_bytes = 400
    chat = drive_chat(ChatSession(gateway.context, "", "lobby"), MemorySocket())
    say(chat, 1)
    await settle()
    send(driver, 2, OTHER_PARTITION)
    say(chat, 3)
    await settle()
    gateway.broker.waiting.pop(1)[1].set_result(None)
    await settle()
    gateway.clock.advance(3.0)
    say(chat, 4)
    gateway.broker.confirm()
    await settle()
    assert [b"success" in reply for reply in chat.socket.read()] == [True, False, False]
    assert attempts(gateway) == 1
    chat.close()


async def test_a_place_is_kept_while_the_peer_has_not_received_the_refusal(gateway, driver) -> None:
    send(driver, 1)
    await refuse(gateway)
    gateway.clock.advance(3.0)
    send(driver, 2)
    await settle()
    assert attempts(gateway) == 1


async def test_a_peer_that_was_told_and_repeats_nothing_goes_on(gateway, driver) -> None:
    send(driver, 1)
    await refuse(gateway)
    driver.socket.read()
    await settle()
    gateway.clock.advance(3.0)
    send(driver, 2)
    await settle()
    assert attempts(gateway) == 2
