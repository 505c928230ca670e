import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.domain.identity.claims import HASHED_FROM, ClaimNames, ClaimRules, hashed_id, username_of
from chatflow.domain.messages.validation import MessageLimits, valid_user_id, valid_username
from chatflow.domain.permissions import grant_of, grants_of
from chatflow.ports.errors import TokenFault, TokenRefused

LIMITS = MessageLimits()
RULES = ClaimRules()
GOOD = {"sub": "7", "exp": 2_000_000_000}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def refused(claims, rules=RULES) -> str:
    with pytest.raises(TokenRefused) as caught:
        rules.principal(claims)
    assert caught.value.fault is TokenFault.BAD_CLAIM
    return caught.value.claim


def test_a_token_with_everything_becomes_a_principal_with_everything() -> None:
    claims = GOOD | {"name": "Ada", "iat": 5, "jti": "t", "admin": True, "metrics": True}
    principal = RULES.principal(claims | {"grants": [{"room": "room5", "may": "rw"}, {"room": "team-*", "may": "r"}]})
    assert (principal.user_id, principal.username, principal.token_id) == (7, "Ada", "t")
    assert (principal.expires_at, principal.issued_at) == (2_000_000_030, 5)
    assert (principal.is_admin, principal.may_metrics, principal.permits_all, principal.is_open) == (True,) * 3 + (
        False,
    )
    assert principal.grants == (grant_of("5", "rw"), grant_of("team-*", "r"))


@pytest.mark.parametrize("subject", ["7", "4503599627370495", 7])
def test_a_subject_that_is_a_small_number_is_the_user_id(subject: object) -> None:
    assert RULES.principal(GOOD | {"sub": subject}).user_id == int(subject)


@given(st.text(min_size=1, max_size=64).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text)))
def test_any_other_subject_is_hashed_above_all_small_numbers_and_always_alike(subject: str) -> None:
    user_id = RULES.principal(GOOD | {"sub": subject}).user_id
    is_small = (
        subject.isascii() and subject.isdigit() and str(int(subject)) == subject and 0 < int(subject) < HASHED_FROM
    )
    assert (user_id < HASHED_FROM) is is_small
    assert valid_user_id(user_id, LIMITS, "id") == user_id == RULES.principal(GOOD | {"sub": subject}).user_id


@pytest.mark.parametrize(
    "subject", ["007", "+7", " 7", "\u0667", "4503599627370496", "7.0", "auth0|5f7c8ec7c33c6c004bbafe82"]
)
def test_what_only_looks_like_a_small_number_is_hashed(subject: str) -> None:
    assert RULES.principal(GOOD | {"sub": subject}).user_id >= HASHED_FROM


def test_the_same_subject_of_two_issuers_is_two_users() -> None:
    assert hashed_id("https://a", "ada") != hashed_id("https://b", "ada")


def test_a_hash_stays_the_same_in_every_release() -> None:
    assert hashed_id("https://id.example.org", "ada") == 8617217808611873


def test_a_named_claim_is_the_user_id() -> None:
    rules = ClaimRules(ClaimNames(user="uid"))
    assert rules.principal(GOOD | {"sub": "x", "uid": 9}).user_id == 9
    assert rules.principal(GOOD | {"sub": "x", "uid": "9"}).user_id == 9
    for wrong in (None, 0, -1, 2**53, True, 9.0, "", "x", [9]):
        assert refused(GOOD | {"sub": "x", "uid": wrong}, rules) == "uid"


@pytest.mark.parametrize(
    ("name", "username"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "AdaLovelace"),
        ("Zoë Müller-Lüdenscheidt", "ZoeMullerLudenscheid"),
        ("王伟", "user7"),
        ("Al", "user7"),
        ("", "user7"),
        (None, "user7"),
        (7, "user7"),
        ("ﬁsh", "fish"),
        ("<script>", "script"),
        ("a\u202eda\n!", "ada"),
        ("x" * 10_000, "x" * 20),
    ],
)
def test_a_display_name_becomes_a_username(name: object, username: str) -> None:
    assert username_of(name, 7, LIMITS) == username


@given(json_values, st.integers(1, 2**53 - 1), st.integers(1, 20), st.integers(0, 44))
def test_every_display_name_becomes_a_valid_username(name: object, user_id: int, least: int, more: int) -> None:
    limits = MessageLimits(username_min=least, username_max=least + more)
    username = username_of(name, user_id, limits)
    assert valid_username(username, limits, "username") == username


@pytest.mark.parametrize(
    ("claims", "claim"),
    [
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": ["7"]}, "sub"),
        ({"sub": "x" * 513}, "sub"),
        ({"sub": "\ud800"}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": True}, "exp"),
        ({"iat": "x"}, "iat"),
        ({"jti": 5}, "jti"),
        ({"admin": 1}, "admin"),
        ({"admin": "true"}, "admin"),
        ({"metrics": "yes"}, "metrics"),
        ({"grants": {}}, "grants"),
        ({"grants": "lobby:rw"}, "grants"),
        ({"grants": [{"room": "lobby"}]}, "grants"),
        ({"grants": ["lobby:rw"]}, "grants"),
        ({"grants": [None]}, "grants"),
        ({"grants": [{"room": "lobby", "may": "rw"}, {"room": "a b", "may": "r"}]}, "grants"),
        ({"grants": [{"room": "lobby", "may": "r"}] * 257}, "grants"),
    ],
)
def test_a_wrong_claim_makes_the_token_invalid(claims: dict[str, object], claim: str) -> None:
    assert refused(GOOD | claims) == claim


@given(st.dictionaries(st.sampled_from(["sub", "exp", "iat", "jti", "name", "grants", "admin", "iss"]), json_values))
def test_whatever_the_claims_they_make_a_valid_principal_or_are_refused(claims: dict[str, object]) -> None:
    try:
        principal = RULES.principal(claims)
    except TokenRefused:
        return
    assert valid_user_id(principal.user_id, LIMITS, "id")
    assert valid_username(principal.username, LIMITS, "name")
    assert principal.is_admin is (claims.get("admin") is True)


def test_a_far_end_is_the_end_of_all_times_that_can_be_written() -> None:
    assert RULES.principal(GOOD | {"exp": 10**400}).expires_at == 253_402_300_799


def test_a_token_without_the_claim_has_the_default_grants_and_one_with_an_empty_list_has_none() -> None:
    rules = ClaimRules(default_grants=grants_of("lobby:rw, team-*:r"))
    assert rules.principal(GOOD).grants == (grant_of("lobby", "rw"), grant_of("team-*", "r"))
    assert rules.principal(GOOD | {"grants": []}).grants == ()
