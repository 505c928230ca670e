"""The chat page in a real Chromium against a real ``chatflow up``: what a person reads, writes and finds."""

import re

import pytest
from playwright.async_api import expect

from tests.e2e.browser_page import ChatPage, Open
from tests.e2e.browser_server import UpServer
from tests.harness.waiting import eventually

pytestmark = pytest.mark.browser

WINDOW = 1000


async def test_two_people_see_the_same_messages_once_and_in_order(chat_server: UpServer, open_page: Open) -> None:
    ada, grace = await open_page(chat_server), await open_page(chat_server)
    await ada.enter("ada", "talk")
    await grace.enter("grace", "talk")
    for turn in range(4):
        await ada.say(f"ada says {turn}")
        await grace.say(f"grace says {turn}")
    expected = [f"{name} says {turn}" for turn in range(4) for name in ("ada", "grace")]
    for page in (ada, grace):
        await expect(page.part("message")).to_have_count(8)
        assert await page.texts() == expected
        assert [message["seq"] for message in await page.messages()] == list(range(1, 9))
        await page.verify_quiet()
    assert [message["own"] for message in await ada.messages()] == [True, False] * 4
    assert {message["name"] for message in await grace.messages()} == {"ada", "grace"}


async def test_a_reload_keeps_name_and_history(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "reload")
    await ada.say("before the reload")
    await ada.page.reload()
    await ada.connected()
    await expect(ada.part("my-name")).to_have_text("ada")
    await expect(ada.message("before the reload", "stored")).to_have_count(1)
    assert (await ada.messages())[0]["own"]
    await ada.say("after the reload")
    assert await ada.texts() == ["before the reload", "after the reload"]
    await ada.verify_quiet()


async def test_scrolling_up_pages_history_back_without_a_jump(chat_server: UpServer, open_page: Open) -> None:
    await chat_server.say("history", [f"line {number}" for number in range(1, 301)])
    ada = await open_page(chat_server)
    await ada.enter("ada", "history")
    await expect(ada.message("line 300")).to_be_in_viewport()
    await expect(ada.message("line 1")).to_have_count(0)
    while (first := (await ada.messages())[0]["seq"]) > 1:
        edge = ada.message(f"line {first}")
        await ada.scroll_to(0)
        before = await edge.bounding_box()
        await eventually(lambda first=first: _first_seq_below(ada, first))
        after = await edge.bounding_box()
        assert before is not None
        assert after is not None
        assert abs(after["y"] - before["y"]) < 40, "what was being read moved"
    assert await ada.texts() == [f"line {number}" for number in range(1, 301)]
    await expect(ada.part("timeline-top")).to_contain_text("begins")
    await ada.verify_order()
    await ada.verify_quiet()


async def _first_seq_below(page: ChatPage, seq: int) -> bool:
    return (await page.messages())[0]["seq"] < seq


async def test_the_page_keeps_a_bounded_window_and_finds_back_to_the_latest(
    chat_server: UpServer, open_page: Open
) -> None:
    await chat_server.say("long", [f"line {number}" for number in range(1, 1301)])
    ada = await open_page(chat_server)
    await ada.enter("ada", "long")
    await expect(ada.message("line 1300")).to_have_count(1)
    while (first := (await ada.messages())[0]["seq"]) > 101:
        await ada.scroll_to(0)
        await eventually(lambda first=first: _first_seq_below(ada, first))
        assert await ada.part("message").count() <= WINDOW
    await ada.verify_order()
    await expect(ada.message("line 1300")).to_have_count(0)
    last = (await ada.messages())[-1]["seq"]
    await ada.scroll_to(10**7)
    await eventually(lambda: _last_seq_above(ada, last))
    await ada.verify_order()
    await chat_server.say("long", ["meanwhile"])
    await expect(ada.part("jump-latest")).to_have_text("1 new message")
    await ada.part("jump-latest").click()
    await expect(ada.message("meanwhile")).to_be_in_viewport()
    await expect(ada.part("jump-latest")).to_be_hidden()
    await ada.verify_order()
    await ada.verify_quiet()


async def _last_seq_above(page: ChatPage, seq: int) -> bool:
    return (await page.messages())[-1]["seq"] > seq


async def test_what_came_while_the_tab_was_hidden_is_marked(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "unread")
    await ada.say("I am looking away")
    await ada.pretend_hidden(True)
    await chat_server.say("unread", ["psst", "hey"])
    await expect(ada.page).to_have_title("(2) #unread · chatflow")
    await ada.pretend_hidden(False)
    await expect(ada.part("unread-marker")).to_have_count(1)
    follower = ada.part("unread-marker").locator("xpath=following-sibling::*[1]")
    await expect(follower).to_have_attribute("data-seq", "2")
    await expect(ada.page).to_have_title("#unread · chatflow")
    await ada.say("I am back")
    await expect(ada.part("unread-marker")).to_have_count(0)
    await ada.verify_quiet()


async def test_a_reader_further_up_stays_there_and_can_jump_to_the_latest(
    chat_server: UpServer, open_page: Open
) -> None:
    await chat_server.say("above", [f"line {number}" for number in range(1, 51)])
    ada = await open_page(chat_server)
    await ada.enter("ada", "above")
    await expect(ada.message("line 50")).to_be_in_viewport()
    await ada.scroll_to(200)
    reading = ada.message("line 8")
    before = await reading.bounding_box()
    await chat_server.say("above", ["something new"])
    await expect(ada.part("jump-latest")).to_have_text("1 new message")
    assert await reading.bounding_box() == before
    await expect(ada.page).to_have_title("(1) #above · chatflow")
    await ada.part("jump-latest").click()
    await expect(ada.message("something new")).to_be_in_viewport()
    assert await ada.distance_to_end() < 2
    await expect(ada.part("unread-marker")).to_have_count(1)


async def test_markup_is_shown_as_text(chat_server: UpServer, open_page: Open) -> None:
    attacks = [
        "<img src=x onerror=\"document.title='owned'\">",
        "<script>document.title='owned'</script>",
        "</p><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
        "javascript:alert(1)//&lt;b&gt;",
    ]
    await chat_server.say("markup", attacks)
    ada = await open_page(chat_server)
    await ada.enter("ada", "markup")
    await expect(ada.part("message")).to_have_count(4)
    await ada.say(attacks[0] + " again")
    assert await ada.texts() == [*attacks, attacks[0] + " again"]
    assert await ada.page.locator("[data-testid=timeline] :is(img, script, iframe, a, b)").count() == 0
    await expect(ada.page).to_have_title("#markup · chatflow")
    await ada.verify_quiet()


async def test_a_phone_shows_no_more_than_its_width(chat_server: UpServer, open_page: Open) -> None:
    await chat_server.say("phone", ["w" * 400, "a word " * 50, "short"])
    ada = await open_page(chat_server, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    await ada.enter("ada", "phone")
    await ada.say("x" * 300)
    await expect(ada.part("send")).to_be_in_viewport()
    assert await ada.page.evaluate("document.documentElement.scrollWidth") == 360
    assert await ada.part("timeline").evaluate("(element) => element.scrollWidth === element.clientWidth")
    await ada.part("open-sidebar").tap()
    await ada.part("room-input").fill("pocket")
    await ada.part("join-button").tap()
    await expect(ada.part("room-title")).to_have_text("pocket")
    await expect(ada.part("room-input")).not_to_be_in_viewport()
    for testid in ("open-sidebar", "send", "copy-link", "leave-room", "composer"):
        box = await ada.part(testid).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 40, testid
    await ada.verify_quiet()


async def test_rooms_in_the_background_count_what_is_unread(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "front")
    await ada.part("room-input").fill("room4711")
    await ada.part("join-button").click()
    await expect(ada.part("room-title")).to_have_text("4711")
    await ada.say("hello 4711")
    await ada.go("front")
    await chat_server.say("4711", ["one", "two"])
    badge = ada.page.locator("[data-room='4711']").get_by_test_id("unread-count")
    await expect(badge).to_have_text("2")
    await expect(ada.page).to_have_title("(2) #front · chatflow")
    await ada.page.reload()
    await expect(badge).to_have_text("2")
    await badge.click()
    await expect(ada.message("two")).to_be_in_viewport()
    await expect(ada.part("unread-marker")).to_have_count(1)
    await expect(badge).to_have_text("")
    await ada.part("leave-room").click()
    await expect(ada.part("room-title")).to_have_text("front")
    await expect(ada.page.locator("[data-room='4711']")).to_have_count(0)
    await ada.verify_quiet()


async def test_names_and_rooms_are_checked_in_words(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.page.goto(f"{chat_server.url}/#/bad%20room!")
    for name, words in {"ab": "at least 3", "a b c": "digits only", "x" * 21: "at most 20"}.items():
        await ada.part("name-input").fill(name)
        await ada.part("join-button").click()
        await expect(ada.part("name-problem")).to_contain_text(words)
    await ada.part("name-input").fill("ada")
    await ada.part("join-button").click()
    await expect(ada.part("room-problem")).to_contain_text("bad-room")
    await ada.part("room-input").fill("room5")
    await expect(ada.part("room-note")).to_have_text("room5 is another name for room 5.")
    await ada.part("join-button").click()
    await expect(ada.part("room-title")).to_have_text("5")
    assert ada.page.url.endswith("#/5")
    await ada.page.goto(f"{chat_server.url}/#/not a room")
    await expect(ada.part("void")).to_contain_text("cannot be a room")
    await expect(ada.part("composer")).to_be_hidden()
    await ada.part("suggested-room").click()
    await expect(ada.part("room-title")).to_have_text("not-a-room")
    await ada.part("room-input").fill("room6")
    await expect(ada.part("join-note")).to_have_text("room6 is another name for room 6.")
    await ada.part("room-input").press("Enter")
    await expect(ada.part("room-title")).to_have_text("6")
    await expect(ada.part("join-note")).to_have_text("")
    await ada.verify_quiet()


async def test_a_message_over_the_limit_cannot_be_sent(chat_server: UpServer, open_page: Open) -> None:
    """The limit counts code points: 500 emoji are 1,000 UTF-16 units and still fit."""
    ada = await open_page(chat_server)
    await ada.enter("ada", "limit")
    await ada.part("composer").fill("\N{HOT BEVERAGE}" + "\N{SLICE OF PIZZA}" * 500)
    await expect(ada.part("counter")).to_have_text("1 too many")
    await expect(ada.part("send")).to_be_disabled()
    await ada.part("composer").press("Enter")
    await expect(ada.part("message")).to_have_count(0)
    await ada.part("composer").fill("\N{SLICE OF PIZZA}" * 500)
    await expect(ada.part("counter")).to_have_text("0 left")
    await ada.part("send").click()
    await expect(ada.message("\N{SLICE OF PIZZA}" * 500, "stored")).to_have_count(1)
    await ada.verify_quiet()


async def test_keys_write_lines_and_leave_input_methods_alone(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "keys")
    composer = ada.part("composer")
    await composer.press_sequentially("one")
    await composer.press("Shift+Enter")
    await composer.press_sequentially("two")
    await composer.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    await expect(composer).to_have_value("one\ntwo")
    await composer.press("Enter")
    await expect(composer).to_have_value("")
    await expect(ada.message("one two", "stored")).to_have_count(1)
    assert await ada.texts() == ["one\ntwo"]


async def test_drafts_stay_with_their_room(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "draft-a")
    await ada.part("composer").fill("half a thought")
    await ada.go("draft-b")
    await expect(ada.part("composer")).to_have_value("")
    await ada.go("draft-a")
    await expect(ada.part("composer")).to_have_value("half a thought")
    await ada.page.reload()
    await expect(ada.part("composer")).to_have_value("half a thought")


async def test_a_new_name_goes_with_new_messages(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    await ada.enter("ada", "rename")
    await ada.say("as ada")
    await ada.part("me").click()
    await ada.part("name-input").fill("countess")
    await ada.part("rename-save").click()
    await expect(ada.part("my-name")).to_have_text("countess")
    await ada.connected()
    await ada.say("as countess")
    rows = await chat_server.stored("rename")
    assert [row["username"] for row in rows] == ["ada", "countess"]
    assert len({row["userId"] for row in rows}) == 1
    await ada.verify_quiet()


async def test_the_theme_can_be_chosen_and_is_remembered(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server, color_scheme="light")
    await ada.enter("ada", "theme")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await ada.page.evaluate(background)
    for _ in range(2):
        await ada.part("theme").click()
    await expect(ada.part("theme")).to_have_attribute("title", re.compile("dark"))
    dark = await ada.page.evaluate(background)
    assert dark != light
    await ada.page.reload()
    assert await ada.page.evaluate(background) == dark
    await ada.verify_quiet()
