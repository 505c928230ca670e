"""What the chat page promises about messages when the connection, the server or the page itself fails."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from tests.e2e.browser_page import Open
from tests.e2e.browser_server import UpServer, running_server
from tests.e2e.browser_wire import Wire
from tests.harness.waiting import eventually

pytestmark = pytest.mark.browser

WINDOW = 1000


async def test_a_killed_server_loses_and_doubles_nothing(open_page: Open) -> None:
    async with running_server() as server:
        ada, grace = await open_page(server), await open_page(server)
        await ada.enter("ada", "crash")
        await grace.enter("grace", "crash")
        await ada.say("before")
        await server.kill()
        await expect(ada.part("connection-state")).to_have_attribute("data-state", "reconnecting")
        await expect(ada.part("connection-state")).to_contain_text("Reconnecting in")
        await expect(ada.part("retry-now")).to_be_visible()
        typed = [f"typed while away {number}" for number in range(3)]
        for text in typed:
            await ada.write(text)
        await expect(ada.message(typed[2], "pending")).to_have_count(1)
        await server.start()
        for page in (ada, grace):
            await page.connected()
            await expect(page.message(typed[2], "stored")).to_have_count(1)
        await grace.say("after")
        await expect(ada.message("after")).to_have_count(1)
        assert await ada.texts() == await grace.texts() == ["before", *typed, "after"]
        assert [row["message"] for row in await server.stored("crash")] == ["before", *typed, "after"]
        for page in (ada, grace):
            await page.verify_order()
            await page.verify_quiet(server_was_away=True)


async def test_what_was_not_acknowledged_survives_a_reload_of_the_page(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "again")
    wire.held = {"ack", "message"}
    await ada.write("sent, but who knows")
    await eventually(lambda: _stored_count(chat_server, "again", 1))
    await ada.page.reload()
    wire.release()
    await expect(ada.message("sent, but who knows", "stored")).to_have_count(1)
    assert len(set(wire.sent_ids("sent, but who knows"))) == 1
    assert len(await chat_server.stored("again")) == 1
    await expect(ada.part("message")).to_have_count(1)


async def _stored_count(server: UpServer, room: str, count: int) -> bool:
    return len(await server.stored(room)) == count


async def test_a_message_is_pending_then_acknowledged_then_stored(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "states")
    wire.held = {"ack", "message"}
    await ada.write("first")
    await expect(ada.message("first", "pending")).to_have_count(1)
    wire.release()
    await expect(ada.message("first", "stored")).to_have_count(1)
    wire.held = {"message"}
    await ada.write("second")
    await expect(ada.message("second", "acknowledged")).to_have_count(1)
    assert [message["seq"] for message in await ada.messages()] == [1, None]
    wire.release()
    await expect(ada.message("second", "stored")).to_have_count(1)
    assert [message["seq"] for message in await ada.messages()] == [1, 2]
    await ada.verify_quiet()


async def test_a_refused_message_can_be_retried_with_its_id(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "refused")
    wire.refusals["not today"] = {"code": "forbidden", "message": "the room is closed", "retryable": False}
    await ada.write("not today")
    await ada.say("others go on")
    failed = ada.message("not today", "failed")
    await expect(failed.get_by_test_id("message-reason")).to_contain_text("the room is closed")
    await failed.get_by_test_id("retry").click()
    await expect(ada.message("not today", "stored")).to_have_count(1)
    tries = wire.sent_ids("not today")
    assert len(tries) == 2
    assert len(set(tries)) == 1
    assert await ada.texts() == ["others go on", "not today"]


async def test_a_retryable_refusal_is_retried_in_order_and_with_the_same_id(
    chat_server: UpServer, open_page: Open
) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "busy")
    wire.refusals["one"] = {"code": "busy", "message": "try again", "retryable": True}
    for text in ("one", "two", "three"):
        await ada.write(text)
    await expect(ada.message("three", "stored")).to_have_count(1)
    assert await ada.texts() == ["one", "two", "three"]
    assert len(wire.sent_ids("one")) == 2
    assert len(set(wire.sent_ids("one"))) == 1


async def test_a_lost_acknowledgement_is_made_up_for_after_the_reconnect(
    chat_server: UpServer, open_page: Open
) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "lost-acks")
    wire.held = {"ack", "message"}
    for number in range(3):
        await ada.write(f"unsure {number}")
    await eventually(lambda: _stored_count(chat_server, "lost-acks", 1))
    wire.held = set()
    await wire.cut(1012)
    await expect(ada.message("unsure 2", "stored")).to_have_count(1)
    assert [row["message"] for row in await chat_server.stored("lost-acks")] == [
        f"unsure {number}" for number in range(3)
    ]
    assert await ada.texts() == [f"unsure {number}" for number in range(3)]


@pytest.mark.parametrize("missed", [40, 1200])
async def test_what_was_missed_while_away_is_caught_up(chat_server: UpServer, open_page: Open, missed: int) -> None:
    """1,200 is more than the server replays, and more than the page keeps."""
    room = f"missed-{missed}"
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", room)
    await ada.say("before")
    wire.closed_with = 1013
    await wire.cut(1013)
    await chat_server.say(room, [f"missed {number}" for number in range(missed)])
    wire.closed_with = None
    await ada.part("retry-now").dispatch_event("click")
    await expect(ada.message(f"missed {missed - 1}")).to_have_count(1, timeout=20_000)
    await chat_server.say(room, ["live again"])
    await expect(ada.message("live again")).to_have_count(1)
    kept = min(missed + 2, WINDOW)
    assert [message["seq"] for message in await ada.messages()] == list(range(missed + 3 - kept, missed + 3))


async def test_a_message_that_comes_twice_is_shown_and_counted_once(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire(doubling=True)
    await wire.install(ada.page)
    await ada.enter("ada", "twice")
    await ada.say("mine")
    await ada.pretend_hidden(True)
    await chat_server.say("twice", ["theirs", "theirs too"])
    await expect(ada.part("message")).to_have_count(3)
    await expect(ada.page).to_have_title("(2) #twice · chatflow")
    assert await ada.texts() == ["mine", "theirs", "theirs too"]


async def test_a_hole_in_the_stream_is_filled_from_history(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "hole")
    await ada.say("first")
    wire.swallow = 3
    await chat_server.say("hole", ["lost 1", "lost 2", "lost 3", "seen"])
    await expect(ada.message("seen")).to_have_count(1)
    assert await ada.texts() == ["first", "lost 1", "lost 2", "lost 3", "seen"]


@pytest.mark.parametrize("missed", [0, 1200])
async def test_what_comes_live_while_history_is_read_waits_for_its_place(
    chat_server: UpServer, open_page: Open, missed: int
) -> None:
    room = f"slow-history-{missed}"
    await chat_server.say(room, ["first"])
    ada, wire, may_answer = await open_page(chat_server), Wire(), asyncio.Event()
    await wire.install(ada.page)
    if missed > 0:
        await ada.enter("ada", room)
        await expect(ada.message("first")).to_have_count(1)
        wire.closed_with = 1012
        await wire.cut(1012)
        await chat_server.say(room, [f"missed {number}" for number in range(missed)])
        wire.closed_with = None

    async def answer_late(route: Route) -> None:
        response = await route.fetch()
        await may_answer.wait()
        await route.fulfill(response=response)

    await ada.page.route("**/api/messages/room*", answer_late)
    if missed == 0:
        await ada.enter("ada", room)
    await ada.connected()
    live = [f"live {number}" for number in range(5)]
    await chat_server.say(room, live)
    await expect(ada.message("live 4")).to_have_count(0)
    may_answer.set()
    await expect(ada.message("live 4")).to_have_count(1)
    await ada.verify_order()
    assert (await ada.texts())[-5:] == live
    assert len(await ada.messages()) == min(missed + 6, WINDOW)


@pytest.mark.parametrize(
    ("code", "words"), [(1012, "is restarting"), (1013, "is busy"), (4401, "did not hear who you are")]
)
async def test_a_closed_connection_is_explained(chat_server: UpServer, open_page: Open, code: int, words: str) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "closing")
    wire.closed_with = code
    await wire.cut(code)
    await expect(ada.part("notice")).to_contain_text(words)
    await expect(ada.part("connection-state")).to_have_attribute("data-state", "reconnecting")
    wire.closed_with = None
    await ada.connected()
    await expect(ada.part("notice")).to_be_hidden()
