"""Keys from an identity provider, and tokens that a service judges, over real HTTP with every way to fail."""

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chatflow.adapters.auth_callback import CallbackAuthenticator
from chatflow.adapters.jwt.authenticator import JwtAuthenticator
from chatflow.adapters.jwt.key_set import RemoteKeys
from chatflow.domain.identity.claims import ClaimRules
from chatflow.domain.identity.recent_tokens import RecentTokens
from chatflow.ports.errors import IdentityUnavailable, TokenFault, TokenRefused
from tests.harness.clock import FakeClock
from tests.harness.tokens import PRIVATE, claims_of, jwk_of, provider
from tests.harness.waiting import eventually
from tests.unit.fakes import EPOCH_US


def signed(key_id: str | None = "k1", algorithm: str = "ES256", key: object = None, **claims: object) -> str:
    import jwt

    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims_of(**claims), key or PRIVATE[algorithm], algorithm=algorithm, headers=headers)


@pytest.fixture
async def idp():
    async with provider() as served:
        served.keys = [jwk_of("ES256", "k1"), jwk_of("RS256", "k2"), jwk_of("EdDSA", "k3")]
        yield served


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def keys(idp, clock):
    remote = RemoteKeys(f"{idp.url}/keys", clock)
    await remote.open()
    yield remote
    await remote.close()


@pytest.fixture
def reader(keys) -> JwtAuthenticator:
    return JwtAuthenticator(keys, "chatflow", ClaimRules())


async def fault(reader, token: str) -> TokenFault:
    with pytest.raises(TokenRefused) as caught:
        await reader.principal(token)
    return caught.value.fault


async def test_each_key_of_the_set_verifies_its_tokens_and_no_other_algorithm(reader, idp):
    for key_id, algorithm in (("k1", "ES256"), ("k2", "RS256"), ("k3", "EdDSA")):
        assert (await reader.principal(signed(key_id, algorithm))).user_id == 7
    assert await fault(reader, signed("k1", "RS256")) is TokenFault.WRONG_ALGORITHM
    assert await fault(reader, signed(None)) is TokenFault.UNKNOWN_KEY
    assert len(idp.asked) == 1


async def test_a_rotated_key_is_found_at_once_and_made_up_ones_cost_nothing(reader, idp, clock):
    other = ec.generate_private_key(ec.SECP256R1())
    for n in range(20):
        assert await fault(reader, signed(f"made up {n}")) is TokenFault.UNKNOWN_KEY
    assert len(idp.asked) == 1  # it was asked at start, less than 5 seconds ago
    idp.keys.append(jwk_of("ES256", "k4", other))
    clock.advance(5)
    assert (await reader.principal(signed("k4", key=other))).user_id == 7
    for n in range(20):
        assert await fault(reader, signed(f"made up {n}")) is TokenFault.UNKNOWN_KEY
    assert len(idp.asked) == 2


async def test_many_who_come_with_a_new_key_share_one_fetch(reader, idp, clock):
    clock.advance(5)
    idp.keys.append(jwk_of("ES256", "k4"))
    idp.delay_s = 0.05
    principals = await asyncio.gather(*(reader.principal(signed("k4")) for _ in range(50)))
    assert {principal.user_id for principal in principals} == {7}
    assert len(idp.asked) == 2


@pytest.mark.parametrize(
    "outage",
    [
        {"status": 500},
        {"status": 302},
        {"status": 404},
        {"body": b"{"},
        {"body": b'{"keys":[]}'},
        {"body": b"x" * 300_000},
    ],
    ids=str,
)
async def test_while_the_provider_is_away_the_last_keys_serve_and_unknown_ones_may_be_tried_again(
    reader, keys, idp, clock, outage
):
    for name, value in outage.items():
        setattr(idp, name, value)
    clock.advance(301)
    assert (await reader.principal(signed())).user_id == 7  # and fetches behind it
    await eventually(lambda: keys.failures == 1 and not len(keys._flight))
    assert (await reader.principal(signed())).user_id == 7
    clock.advance(5)
    with pytest.raises(IdentityUnavailable):
        await reader.principal(signed("k9"))
    with pytest.raises(IdentityUnavailable):  # not asked again, and not called unknown
        await reader.principal(signed("k9"))
    assert keys.failures == 2
    await keys.ping()


async def test_a_withdrawn_key_goes_with_the_next_fetch(reader, keys, idp, clock):
    idp.keys = [jwk_of("RS256", "k2")]
    clock.advance(301)
    assert (await reader.principal(signed("k1"))).user_id == 7
    await eventually(lambda: keys.fetches == 2 and not len(keys._flight))
    assert await fault(reader, signed("k1")) is TokenFault.UNKNOWN_KEY


async def test_a_single_key_without_an_id_serves_tokens_without_one(idp, clock):
    idp.keys = [jwk_of("ES256", None)]
    keys = RemoteKeys(f"{idp.url}/keys", clock)
    await keys.open()
    assert (await JwtAuthenticator(keys, "chatflow", ClaimRules()).principal(signed(None))).user_id == 7
    await keys.close()


async def test_a_provider_that_never_answers_is_given_up(idp, clock):
    idp.delay_s = 5
    with pytest.raises(IdentityUnavailable):
        await RemoteKeys(f"{idp.url}/keys", clock, timeout_s=0.05).open()


@pytest.fixture
async def callback(idp):
    asked = CallbackAuthenticator(f"{idp.url}/whose", ClaimRules(), lambda: EPOCH_US, timeout_s=5)
    await asked.open()
    idp.claims = {"good": {"sub": "7", "name": "Ada", "exp": EPOCH_US // 1_000_000 + 60, "admin": True}}
    yield asked
    await asked.close()


async def test_the_callback_says_whose_a_token_is(callback):
    principal = await callback.principal("good")
    assert (principal.user_id, principal.username, principal.is_admin) == (7, "Ada", True)


async def test_what_the_callback_refuses_is_refused(callback, idp):
    assert await fault(callback, "bad") is TokenFault.REFUSED
    idp.claims["old"] = {"sub": "7", "exp": EPOCH_US // 1_000_000 - 31}
    assert await fault(callback, "old") is TokenFault.EXPIRED
    idp.claims["endless"] = {"sub": "7"}
    assert await fault(callback, "endless") is TokenFault.BAD_CLAIM


@pytest.mark.parametrize("token", ["", "x" * 8193, "\u00e9", "\ud800"])
async def test_what_can_be_no_token_is_not_asked_about(callback, idp, token):
    assert await fault(callback, token) is TokenFault.MALFORMED
    assert idp.asked == []


@pytest.mark.parametrize(
    "outage",
    [
        {"status": 500},
        {"status": 302},
        {"status": 404},
        {"body": b"{"},
        {"body": b"[]"},
        {"body": b"[" * 60000},
        {"body": b'{"sub":"7","exp":1e10,"name":"' + b"x" * 70000 + b'"}'},
        {"delay_s": 5.0},
    ],
    ids=lambda outage: str(outage)[:30],
)
async def test_a_callback_that_fails_lets_nobody_in_and_tells_no_token(callback, idp, outage):
    callback.timeout_s = 0.2 if "delay_s" in outage else 5
    for name, value in outage.items():
        setattr(idp, name, value)
    with pytest.raises(IdentityUnavailable) as caught:
        await callback.principal("good")
    assert "good" not in str(caught.value)


async def test_what_the_callback_said_counts_for_a_moment_also_while_it_is_away(callback, idp, clock):
    recent = RecentTokens(callback, clock, lambda: EPOCH_US)
    for _ in range(3):
        assert (await recent.principal("good")).user_id == 7
    idp.status = 500
    assert (await recent.principal("good")).user_id == 7
    assert idp.asked == ["good"]
    clock.advance(10)
    with pytest.raises(IdentityUnavailable):
        await recent.principal("good")


async def test_more_tokens_than_may_wait_are_refused_retryable(callback, idp, monkeypatch):
    monkeypatch.setattr("chatflow.adapters.auth_callback.WAITING_MAX", 3)
    idp.delay_s = 0.05
    outcomes = await asyncio.gather(*(callback.principal("good") for _ in range(10)), return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes].count("IdentityUnavailable") == 7
    assert len(idp.asked) == 3


async def test_a_closed_callback_lets_nobody_in(callback):
    await callback.close()
    with pytest.raises(IdentityUnavailable):
        await callback.principal("good")
