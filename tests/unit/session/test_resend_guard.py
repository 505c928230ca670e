import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.domain.session.resend_guard import ResendGuard
from tests.harness.clock import FakeClock
from tests.harness.waiting import eventually
from tests.unit.fakes import settle

REFUSAL = [b'{"op":"error"}']


@pytest.fixture
def socket() -> MemorySocket:
    return MemorySocket()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def guard(socket: MemorySocket, clock: FakeClock) -> AsyncIterator[ResendGuard]:
    guard = ResendGuard(socket, clock, limit_s=1.0)
    yield guard
    guard.close()
    await settle()


def refuse(guard: ResendGuard, socket: MemorySocket, room: str = "lobby") -> None:
    guard.refused(room, None, 1, out_of_turn=False)
    socket.send(REFUSAL)


async def test_a_room_is_open_until_something_is_refused(guard: ResendGuard) -> None:
    assert guard.admits("lobby", None)


async def test_a_refusal_fences_its_room_until_the_peer_has_read_it(guard, socket):
    refuse(guard, socket)
    await settle()
    assert not guard.admits("lobby", None)
    assert guard.admits("den", None)
    socket.read()
    await eventually(lambda: guard.admits("lobby", None))


async def test_the_echo_is_asked_for_behind_the_refusals_of_the_same_turn(
    guard: ResendGuard, socket: MemorySocket
) -> None:
    guard.refused("lobby", None, 1, out_of_turn=False)
    asyncio.get_running_loop().call_soon(socket.send, REFUSAL)
    await settle()
    assert not guard.admits("lobby", None)
    socket.read()
    await eventually(lambda: guard.admits("lobby", None))


async def test_a_refusal_during_the_echo_keeps_the_fence_up_for_another_one(
    guard: ResendGuard, socket: MemorySocket
) -> None:
    refuse(guard, socket)
    await settle()
    refuse(guard, socket)
    socket.read()
    refuse(guard, socket)
    await settle()
    assert not guard.admits("lobby", None)
    socket.read()
    await eventually(lambda: guard.admits("lobby", None))


async def test_a_peer_that_never_pauses_is_let_through_at_the_limit(
    guard: ResendGuard, socket: MemorySocket, clock: FakeClock
) -> None:
    for _ in range(10):
        await settle()
        socket.read()
        refuse(guard, socket)  # it went on sending before it read
        await settle()
        assert not guard.admits("lobby", None)
        clock.advance(0.09)
    clock.advance(0.2)
    socket.read()
    refuse(guard, socket)
    await eventually(lambda: guard.admits("lobby", None))


async def test_rooms_are_fenced_one_by_one(guard, socket):
    refuse(guard, socket)
    refuse(guard, socket, "den")
    assert not guard.admits("lobby", None)
    assert not guard.admits("den", None)
    socket.read()
    await eventually(lambda: guard.admits("lobby", None) and guard.admits("den", None))
    refuse(guard, socket, "den")
    assert guard.admits("lobby", None)
    assert not guard.admits("den", None)


async def test_a_fence_can_be_raised_again(guard, socket):
    for _ in range(3):
        refuse(guard, socket)
        await settle()
        assert not guard.admits("lobby", None)
        socket.read()
        await eventually(lambda: guard.admits("lobby", None))


async def test_a_connection_that_ends_leaves_no_task(guard, socket):
    refuse(guard, socket)
    await settle()
    socket.close(1001, "gone")
    await eventually(lambda: not guard._tasks)


async def test_closing_ends_the_wait(guard, socket):
    refuse(guard, socket)
    await settle()
    guard.close()
    await eventually(lambda: not guard._tasks)
