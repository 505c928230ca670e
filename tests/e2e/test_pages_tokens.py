"""The chat page where the server asks for tokens: signing in, staying in, and coming back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Request, Route, expect

from tests.e2e.browser_page import ChatPage, Open
from tests.e2e.browser_server import UpServer, running_server
from tests.e2e.browser_wire import Wire
from tests.harness.tokens import SECRET, token_of
from tests.harness.waiting import eventually

pytestmark = pytest.mark.browser

ADA, GRACE = 41, 42
RECORD_NOTICES = """() => {
  const words = document.getElementById('notice-words');
  window.notices = [];
  new MutationObserver(() => notices.push(words.textContent)).observe(words, { childList: true });
}"""
"""However shortly they are shown."""


@pytest.fixture(scope="module")
async def token_server(chromium_path: str) -> AsyncIterator[UpServer]:
    async with running_server(CHATFLOW_AUTH="jwt", CHATFLOW_JWT_SECRET=SECRET) as server:
        yield server


async def _sign_in(page: ChatPage, token: str, room: str) -> None:
    await page.page.goto(f"{page.url}/#token={token}&room={room}")
    await page.connected()
    await expect(page.part("room-title")).to_have_text(room)


async def _paste(page: ChatPage, token: str) -> None:
    await page.part("token-input").fill(token)
    await page.part("token-input").press("Enter")


def _said(wire: Wire, op: str) -> list[str]:
    return [frame["token"] for frame in wire.sent if frame["op"] == op]


async def test_a_pasted_token_says_who_somebody_is(token_server: UpServer, open_page: Open) -> None:
    ada, token, asked = await open_page(token_server), token_of(ADA, "Ada Lovelace"), list[Request]()
    ada.page.on("request", lambda request: asked.append(request))  # noqa: PLW0108  # handlers get marked
    await ada.page.goto(f"{ada.url}/#/pasted")
    await expect(ada.part("sign-in-page")).to_contain_text("Sign in to join #pasted")
    await expect(ada.part("name-input")).to_have_count(0)
    for wrong, words in {
        " ": "Paste the token here first",
        "hello": "This is no token",
        token_of(ADA, exp=1): "The token has expired",
        token_of(ADA, aud="other"): "The token is meant for another service",
    }.items():
        await _paste(ada, wrong)
        await expect(ada.part("token-problem")).to_contain_text(words)
        await expect(ada.part("token-input")).to_be_focused()
    await _paste(ada, f"Authorization: Bearer {token}\n")
    await ada.connected()
    await expect(ada.part("my-name")).to_have_text("AdaLovelace")
    await ada.say("it is me")
    [row] = await token_server.stored("pasted", token)
    assert (row["userId"], row["username"]) == (ADA, "AdaLovelace")
    await ada.page.reload()
    await expect(ada.message("it is me", "stored")).to_have_count(1)
    reads = [request for request in asked if "/api/" in request.url]
    assert reads
    assert {await request.header_value("Authorization") for request in reads} == {f"Bearer {token}"}
    assert not any(token in request.url for request in asked)
    await ada.verify_quiet()


async def test_a_token_in_the_address_is_used_and_leaves_it_at_once(token_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(token_server), Wire()
    await wire.install(ada.page)
    await ada.page.add_init_script("addEventListener('DOMContentLoaded', () => (window.seenAddress = location.href))")
    token, newer = token_of(ADA), token_of(ADA, jti="newer")
    await _sign_in(ada, token, "arrived")
    assert await ada.page.evaluate("[seenAddress, location.href]") == [f"{ada.url}/#/arrived"] * 2
    assert token not in await ada.page.content()
    hellos = len(_said(wire, "hello"))
    await ada.page.evaluate("(token) => { location.hash = `#token=${token}&room=arrived`; }", newer)
    await eventually(lambda: ada.page.url == f"{ada.url}/#/arrived")
    await expect(ada.part("toast")).to_contain_text("You are signed in")
    assert (_said(wire, "refresh"), len(_said(wire, "hello"))) == ([newer], hellos)
    await ada.page.goto("about:blank")
    await ada.page.goto(f"{ada.url}/#token={token_of(ADA, exp=1)}&room=arrived")
    await expect(ada.part("toast")).to_contain_text("still signed in as before. The token has expired.")
    await ada.connected()
    assert _said(wire, "hello")[-1] == newer
    await ada.verify_quiet()


async def test_the_end_of_a_sign_in_is_told_and_put_off_without_losing_the_connection(
    token_server: UpServer, open_page: Open
) -> None:
    ada, wire = await open_page(token_server), Wire()
    await wire.install(ada.page)
    await ada.page.clock.install()
    await _sign_in(ada, token_of(ADA), "ending")
    hellos = len(_said(wire, "hello"))
    await expect(ada.part("notice")).to_be_hidden()
    await ada.page.clock.fast_forward("58:00")
    await expect(ada.part("notice")).to_contain_text("Your sign-in ends in")
    await ada.part("sign-in-again").click()
    await _paste(ada, token_of(GRACE))
    await expect(ada.part("token-problem")).to_contain_text("The token is another user's")
    await _paste(ada, token_of(ADA, exp=4_000_000_000))
    await expect(ada.part("sign-in-dialog")).to_have_count(0)
    await expect(ada.part("notice")).to_be_hidden()
    await ada.say("still here")
    assert len(_said(wire, "hello")) == hellos
    await ada.verify_quiet()


async def test_what_was_written_after_the_sign_in_ended_is_sent_after_the_next(
    token_server: UpServer, open_page: Open
) -> None:
    ada, wire, token = await open_page(token_server), Wire(), token_of(ADA, jti="second")
    await wire.install(ada.page)
    await _sign_in(ada, token_of(ADA, jti="first"), "ended")
    await wire.cut(4403)
    await expect(ada.part("sign-in-dialog")).to_contain_text("Sign in again")
    await ada.page.keyboard.press("Escape")
    await expect(ada.part("connection-state")).to_have_attribute("data-state", "signedOut")
    for text in ("one", "two"):
        await ada.write(text)
    await expect(ada.part("notice")).to_contain_text("2 messages wait here")
    await ada.part("sign-in-again").click()
    await _paste(ada, token)
    await expect(ada.message("two", "stored")).to_have_count(1)
    await expect(ada.part("sign-in-dialog")).to_have_count(0)
    assert await ada.texts() == ["one", "two"]
    assert [row["message"] for row in await token_server.stored("ended", token)] == ["one", "two"]
    await ada.verify_quiet()


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"code": "forbidden", "message": "at most 3 sessions per user", "retryable": False}, "At most 3 sessions per"),
        ({"code": "unavailable", "message": "Tokens cannot be checked now", "retryable": True}, "Tokens cannot be"),
    ],
)
async def test_a_good_token_that_is_refused_for_now_is_tried_again(
    token_server: UpServer, open_page: Open, refusal: dict[str, Any], words: str
) -> None:
    ada, wire = await open_page(token_server), Wire()
    await wire.install(ada.page)
    await _sign_in(ada, token_of(ADA), "refused")
    hellos = len(_said(wire, "hello"))
    await ada.page.evaluate(RECORD_NOTICES)
    wire.refusals[""] = refusal
    await wire.cut(1012)
    await eventually(lambda: len(_said(wire, "hello")) == hellos + 2)
    await ada.connected()
    notices = await ada.page.evaluate("notices")
    assert any(words in notice for notice in notices)
    assert not any("Sign in" in notice for notice in notices)


async def test_tabs_share_one_sign_in_and_sign_out_together(token_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(token_server), Wire()
    await _sign_in(ada, token_of(ADA, jti="one"), "shared")
    other = await ChatPage.tab(ada.context, token_server.url)
    await wire.install(other.page)
    await other.page.goto(f"{other.url}/#/shared")
    await other.connected()
    await ada.part("me").dispatch_event("click")
    await expect(ada.part("account-dialog")).to_contain_text("Signed in until")
    await ada.part("new-token").dispatch_event("click")
    newer = token_of(ADA, jti="two")
    await _paste(ada, newer)
    await eventually(lambda: _said(wire, "refresh") == [newer])
    await other.part("composer").fill("a draft of ada's")
    await ada.part("me").dispatch_event("click")
    await ada.part("sign-out").dispatch_event("click")
    for page in (ada, other):
        await expect(page.part("sign-in-page")).to_be_visible()
    assert "eyJ" not in await ada.page.evaluate("JSON.stringify({ ...localStorage, ...sessionStorage })")
    await _paste(ada, token_of(GRACE, "grace"))
    await expect(ada.part("my-name")).to_have_text("grace")
    await expect(ada.part("composer")).to_have_value("")


async def test_the_api_page_tries_with_the_token_of_the_chat_page(token_server: UpServer, open_page: Open) -> None:
    ada, token, asked = await open_page(token_server), token_of(ADA), list[str | None]()

    async def answer(route: Route) -> None:
        asked.append(await route.request.header_value("Authorization"))
        await route.fulfill(status=200 if asked[-1] else 401, json={})

    await ada.page.route("**/api/metrics", answer)
    await ada.page.goto(f"{ada.url}/docs")
    await ada.part("try-api_metrics").dispatch_event("click")
    await expect(ada.page.get_by_text("This needs a token: sign in on the chat page first.")).to_have_count(1)
    await _sign_in(ada, token, "docs")
    await ada.page.goto(f"{ada.url}/docs")
    await ada.part("try-api_metrics").dispatch_event("click")
    await expect(ada.part("status")).to_contain_text("200")
    assert asked == [None, f"Bearer {token}"]


async def test_a_room_that_the_token_does_not_cover_says_so_until_one_does(
    token_server: UpServer, open_page: Open
) -> None:
    ada = await open_page(token_server)
    await _sign_in(ada, token_of(ADA, "ada", {"room": "team-*", "may": "rw"}), "team-a")
    await ada.say("allowed here")
    await ada.go("elsewhere")
    await expect(ada.part("timeline-top")).to_contain_text("refuses to let you in")
    await expect(ada.part("timeline-top")).to_contain_text("does not allow reading room elsewhere")
    await ada.write("not allowed here")
    failed = ada.message("not allowed here", "failed")
    await expect(failed.get_by_test_id("message-reason")).to_contain_text("does not allow writing")
    await ada.part("me").click()
    await ada.part("new-token").click()
    await _paste(ada, token_of(ADA))
    await expect(ada.part("timeline-top")).not_to_contain_text("refuses")
    await failed.get_by_test_id("retry").click()
    await expect(ada.message("not allowed here", "stored")).to_have_count(1)


async def test_signing_in_fits_a_phone(token_server: UpServer, open_page: Open) -> None:
    ada = await open_page(token_server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    await ada.page.goto(f"{ada.url}/#/phone")
    await _fits(ada, "token-input", "sign-in-button")
    await _sign_in(ada, token_of(ADA), "phone")
    await ada.part("open-sidebar").tap()
    await ada.part("me").tap()
    await _fits(ada, "sign-out", "new-token", "account-close")
    await ada.part("new-token").tap()
    await _fits(ada, "token-input", "sign-in-button")


async def _fits(page: ChatPage, *testids: str) -> None:
    assert await page.page.evaluate("document.documentElement.scrollWidth") == 390
    for testid in testids:
        await expect(page.part(testid)).to_be_in_viewport()
        box = await page.part(testid).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 40, testid
