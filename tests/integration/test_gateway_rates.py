"""Over a rate the gateway reads no more until it is paid for: everything is answered, in order, and nobody refused."""

import time

import pytest

from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.quotas import Quotas
from chatflow.domain.session.rates import RateLimiter, Rates
from tests.integration.gateway_harness import chat, open_gateway, send

NONE = Rates(0, 0, 0, 0)


def limiter(**rates: int) -> RateLimiter:
    each = Rates(**({"sends": 0, "joins": 0, "pages": 0, "errors": 0} | rates))
    return RateLimiter(time.monotonic, SessionMetrics(), each, NONE, NONE, burst_s=0.1)


async def test_who_sends_too_fast_is_slowed_and_refused_nothing():
    rates = limiter(sends=200)
    async with open_gateway(rates=rates) as gateway, gateway.session() as peer:
        for n in range(96):
            await peer.send(send("a", str(n), ref=n))
        refs: list[object] = []
        while len(refs) < 96:
            refs.append((await peer.expect("ack"))["ref"])
        assert refs == list(range(96))
        assert gateway.texts("a") == [str(n) for n in range(96)]
    assert rates.metrics.rate_pauses >= 1


async def test_on_chat_too():
    rates = limiter(sends=200)
    async with open_gateway(rates=rates) as gateway, gateway.peer("/chat/a") as peer:
        for _ in range(96):
            await peer.send(chat())
        for _ in range(96):
            assert (await peer.receive())["status"] == "success"
    assert rates.metrics.rate_pauses >= 1


@pytest.mark.parametrize(
    ("kind", "items", "answer"),
    [
        ("joins", [{"op": "join", "room": f"r{n}", "ref": n} for n in range(30)], "joined"),
        ("errors", [{"op": "join", "ref": n} for n in range(30)], "error"),
    ],
)
async def test_joins_and_errors_have_rates_of_their_own(kind, items, answer):
    rates = limiter(**{kind: 100})
    async with open_gateway(rates=rates) as gateway, gateway.session() as peer:
        await peer.send(items)
        assert {(await peer.expect(answer))["ref"] for _ in items} == set(range(30))
        await gateway.can_chat()
    assert rates.metrics.rate_pauses >= 1


async def test_what_a_quota_refuses_is_final_and_the_rest_goes_on():
    quotas = Quotas(time.monotonic, SessionMetrics(), rooms_per_hour=1)
    async with open_gateway(quotas=quotas) as gateway, gateway.session() as peer, gateway.peer("/chat/c") as other:
        await peer.send([send("a", ref=1), send("b", ref=2), send("a", ref=3)])
        answers = {answer["ref"]: answer for answer in [await peer.receive() for _ in range(3)]}
        assert [answers[ref]["op"] for ref in (1, 2, 3)] == ["ack", "error", "ack"]
        assert (answers[2]["code"], answers[2]["retryable"]) == ("forbidden", False)
        await other.send(chat())  # another connection stands for another user
        assert (await other.receive())["status"] == "success"
        assert gateway.texts("a") == ["hi", "hi"]
