import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.domain.session.resend_guard import Fence
from tests.unit.fakes import FakeClock, settle, until

REFUSAL = [b'{"op":"error"}']


@pytest.fixture
def socket() -> MemorySocket:
    return MemorySocket()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def fence(socket: MemorySocket, clock: FakeClock) -> AsyncIterator[Fence]:
    fence = Fence(socket, clock, limit_s=1.0)
    yield fence
    fence.close()
    await settle()


def refuse(fence: Fence, socket: MemorySocket, room: str = "lobby") -> None:
    fence.refused(room, None, 1, fenced=False)
    socket.send(REFUSAL)


async def test_a_room_is_open_until_something_is_refused(fence: Fence) -> None:
    assert fence.admits("lobby", None)


async def test_a_refusal_fences_its_room_until_the_peer_has_read_it(fence: Fence, socket: MemorySocket) -> None:
    refuse(fence, socket)
    await settle()
    assert not fence.admits("lobby", None)
    assert fence.admits("den", None)
    socket.read()
    await until(lambda: fence.admits("lobby", None))


async def test_the_echo_is_asked_for_behind_the_refusals_of_the_same_turn(fence: Fence, socket: MemorySocket) -> None:
    fence.refused("lobby", None, 1, fenced=False)
    asyncio.get_running_loop().call_soon(socket.send, REFUSAL)
    await settle()
    assert not fence.admits("lobby", None)
    socket.read()
    await until(lambda: fence.admits("lobby", None))


async def test_a_refusal_during_the_echo_keeps_the_fence_up_for_another_one(fence: Fence, socket: MemorySocket) -> None:
    refuse(fence, socket)
    await settle()
    refuse(fence, socket)
    socket.read()
    refuse(fence, socket)
    await settle()
    assert not fence.admits("lobby", None)
    socket.read()
    await until(lambda: fence.admits("lobby", None))


async def test_a_peer_that_never_pauses_is_let_through_at_the_limit(
    fence: Fence, socket: MemorySocket, clock: FakeClock
) -> None:
    for _ in range(10):
        await settle()
        socket.read()
        refuse(fence, socket)  # it went on sending before it read
        await settle()
        assert not fence.admits("lobby", None)
        clock.advance(0.09)
    clock.advance(0.2)
    socket.read()
    refuse(fence, socket)
    await until(lambda: fence.admits("lobby", None))


async def test_rooms_are_fenced_one_by_one(fence: Fence, socket: MemorySocket) -> None:
    refuse(fence, socket)
    refuse(fence, socket, "den")
    assert not fence.admits("lobby", None)
    assert not fence.admits("den", None)
    socket.read()
    await until(lambda: fence.admits("lobby", None) and fence.admits("den", None))
    refuse(fence, socket, "den")
    assert fence.admits("lobby", None)
    assert not fence.admits("den", None)


async def test_a_fence_can_be_raised_again(fence: Fence, socket: MemorySocket) -> None:
    for _ in range(3):
        refuse(fence, socket)
        await settle()
        assert not fence.admits("lobby", None)
        socket.read()
        await until(lambda: fence.admits("lobby", None))


async def test_a_connection_that_ends_leaves_no_task(fence: Fence, socket: MemorySocket) -> None:
    refuse(fence, socket)
    await settle()
    socket.close(1001, "gone")
    await until(lambda: not fence._tasks)


async def test_closing_ends_the_wait(fence: Fence, socket: MemorySocket) -> None:
    refuse(fence, socket)
    await settle()
    fence.close()
    await until(lambda: not fence._tasks)
