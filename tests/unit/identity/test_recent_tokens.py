import asyncio

import attrs
import pytest

from chatflow.domain.identity.recent_tokens import RecentTokens
from chatflow.ports.errors import TokenFault, TokenRefused
from chatflow.ports.identity import Principal
from tests.harness.clock import FakeClock
from tests.unit.fakes import EPOCH_US

ADA = Principal(7, "ada", expires_at=EPOCH_US / 1_000_000 + 5)


@attrs.define
class Asked:
    """An authenticator that counts."""

    answers: dict[str, Principal] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)

    async def principal(self, token: str) -> Principal:
        self.asked.append(token)
        await asyncio.sleep(0)
        if token not in self.answers:
            raise TokenRefused(TokenFault.REFUSED)
        return self.answers[token]


def memory(entries_max: int = 10, fresh_s: float = 10.0) -> tuple[RecentTokens, Asked, FakeClock, list[int]]:
    inner, clock, now = Asked({"a": ADA, "b": ADA, "c": ADA}), FakeClock(), [EPOCH_US]
    return RecentTokens(inner, clock, lambda: now[0], fresh_s, entries_max), inner, clock, now


async def test_a_token_is_looked_at_once_in_a_while() -> None:
    tokens, inner, clock, _ = memory()
    for _ in range(3):
        assert await tokens.principal("a") is ADA
    assert inner.asked == ["a"]
    clock.advance(10)
    await tokens.principal("a")
    assert inner.asked == ["a", "a"]
    assert (tokens.hits, tokens.misses) == (2, 2)


async def test_those_who_bring_the_same_token_at_once_share_one_look() -> None:
    tokens, inner, _, _ = memory()
    assert await asyncio.gather(*(tokens.principal("a") for _ in range(50))) == [ADA] * 50
    assert inner.asked == ["a"]


async def test_no_answer_outlives_its_token() -> None:
    tokens, inner, _, now = memory()
    await tokens.principal("a")
    now[0] += 5_000_000
    await tokens.principal("a")
    assert inner.asked == ["a", "a"]


async def test_refusals_are_not_remembered_and_no_other_token_is_taken_for_a_known_one() -> None:
    tokens, inner, _, _ = memory()
    await tokens.principal("a")
    for token in ("x", "x", "A", "a ", "\ud800"):
        with pytest.raises(TokenRefused):
            await tokens.principal(token)
    assert inner.asked == ["a", "x", "x", "A", "a ", "\ud800"]


async def test_the_oldest_is_forgotten_first_and_no_token_is_kept() -> None:
    tokens, inner, _, _ = memory(entries_max=2)
    for token in "abc":
        await tokens.principal(token)
    assert len(tokens._kept) == 2
    assert not {b"a", b"b", b"c"} & set(tokens._kept)
    await tokens.principal("c")
    await tokens.principal("a")
    assert inner.asked == ["a", "b", "c", "a"]
