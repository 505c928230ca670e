import jwt
import pytest

from chatflow.entrypoints.cli.app import app
from chatflow.entrypoints.settings import SettingsError, describe, load_settings
from tests.harness.tokens import SECRET, private_pem, public_pem

JWT = {"CHATFLOW_AUTH": "jwt"}
WITH_SECRET = {"CHATFLOW_JWT_SECRET": SECRET}
JWKS = "https://id.example.org/keys"


def refusal(environ, start="up") -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(start, environ, None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        WITH_SECRET,
        {"CHATFLOW_JWT_PUBLIC_KEY": public_pem("ES256")},
        {"CHATFLOW_JWT_JWKS_URL": JWKS},
        {"CHATFLOW_JWT_JWKS_URL": "http://127.0.0.1:8000/keys"},
        {"CHATFLOW_JWT_JWKS_URL": "http://[::1]/keys"},
        {"CHATFLOW_AUTH_CALLBACK_URL": "https://example.org/whose"},
    ],
    ids=["secret", "public key", "jwks", "jwks on 127.0.0.1", "jwks on ::1", "callback"],
)
def test_one_source_of_keys_is_enough(source):
    assert load_settings("up", JWT | source, None).identity.sources


def test_tokens_without_keys_and_keys_without_tokens_are_refused():
    assert refusal(JWT).startswith("CHATFLOW_AUTH is jwt, which needs one of CHATFLOW_JWT_SECRET, ")
    assert refusal(WITH_SECRET) == "CHATFLOW_AUTH must be set to jwt, or CHATFLOW_JWT_SECRET would be ignored"
    assert load_settings("up", WITH_SECRET | {"CHATFLOW_AUTH": "open"}, None).common.is_open_by_hand
    assert load_settings("tool", WITH_SECRET, None).identity.jwt_secret == SECRET


def test_two_sources_are_one_too_many():
    assert refusal(JWT | WITH_SECRET | {"CHATFLOW_JWT_JWKS_URL": JWKS}) == (
        "CHATFLOW_JWT_JWKS_URL and CHATFLOW_JWT_SECRET are both set; set one of them"
    )


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CHATFLOW_JWT_SECRET", "x" * 31, "must have at least 32 bytes"),
        ("CHATFLOW_JWT_PUBLIC_KEY", "/no/such/file", "must be PEM, or name a file that can be read: no such file"),
        ("CHATFLOW_JWT_PUBLIC_KEY", private_pem("EdDSA"), "must be a public key in PEM"),
        ("CHATFLOW_JWT_JWKS_URL", "http://id.example.org/keys", "must be https, unless its host is loopback"),
        ("CHATFLOW_JWT_JWKS_URL", "http://127.0.0.1.evil.example/keys", "must be https"),
        ("CHATFLOW_JWT_JWKS_URL", "file:///etc/passwd", "must start with https:// or http://"),
        ("CHATFLOW_AUTH_CALLBACK_URL", "https://", "needs a host"),
        ("CHATFLOW_AUTH_CALLBACK_URL", "https://host:99999/", "is no URL"),
        ("CHATFLOW_JWT_GRANTS", "lobby", "a grant is ROOM:r, ROOM:w or ROOM:rw"),
        ("CHATFLOW_JWT_GRANTS", "lo bby:rw", "room must be"),
        ("CHATFLOW_JWT_LEEWAY_S", "601", "must be a whole number, 0 to 600"),
    ],
)
def test_what_cannot_work_is_refused_by_name(variable, value, reason):
    text = refusal(JWT | {variable: value})
    assert text.startswith(variable)
    assert reason in text


def test_no_secret_is_ever_shown():
    settings = load_settings("up", JWT | WITH_SECRET, None)
    assert SECRET not in str(describe(settings))
    assert SECRET not in repr(settings)
    assert "x" * 31 not in refusal(JWT | {"CHATFLOW_JWT_SECRET": "x" * 31})


@pytest.fixture
def chatflow(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environ: str) -> tuple[str, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        app(["token", "issue", *arguments], standalone_mode=False)
        shown = capsys.readouterr()
        return shown.out.strip(), shown.err.strip()

    return run


def test_a_token_that_was_issued_holds_what_was_asked_for(chatflow):
    options = ("--user", "7", "--name", "Zoë", "--room", "team-*:rw", "--room", "room5:r", "--ttl", "15m", "--metrics")
    token, said = chatflow(*options, **WITH_SECRET)
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="chatflow")
    assert claims["exp"] - claims["iat"] == 900
    assert (claims["sub"], claims["name"], claims["metrics"], "admin" in claims, said) == ("7", "Zoë", True, False, "")
    assert claims["grants"] == [{"room": "team-*", "may": "rw"}, {"room": "5", "may": "r"}]
    assert claims["jti"]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_private_key_signs_by_its_own_algorithm(chatflow, tmp_path, algorithm):
    (tmp_path / "key.pem").write_text(private_pem(algorithm))
    token, _ = chatflow("--user", "7", "--key", "key.pem", CHATFLOW_JWT_USER_CLAIM="uid", CHATFLOW_JWT_ISSUER="me")
    claims = jwt.decode(token, public_pem(algorithm), algorithms=[algorithm], audience="chatflow", issuer="me")
    assert claims["uid"] == 7


def test_a_pattern_that_misses_numbered_rooms_is_pointed_out(chatflow):
    _, said = chatflow("--user", "7", "--room", "room*:r", **WITH_SECRET)
    assert "room5" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ttl", "1"], "--ttl must be a number and a unit"),
        (["--ttl", "0s"], "--ttl must be a number and a unit"),
        (["--room", "lobby"], "--room: a grant is ROOM:r"),
        (["--room", "lobby:x"], "--room: may must be r, w or rw"),
        (["--key", "/no/such/file"], "--key /no/such/file must be PEM"),
        ([], "set CHATFLOW_JWT_SECRET"),
    ],
)
def test_a_wrong_option_is_one_line_and_no_token(chatflow, capsys, options, said):
    with pytest.raises(SystemExit) as caught:
        chatflow("--user", "7", *options)
    shown = capsys.readouterr()
    assert (caught.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert said in shown.err
