import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.entrypoints.settings import (
    Common,
    GatewaySettings,
    Profile,
    Settings,
    SettingsError,
    all_variables,
    describe,
    load_settings,
)
from chatflow.entrypoints.settings.urls import masked

ROOT = Path(__file__).parents[3]
RABBIT = "amqp://chat:s3cret@rabbit/chat"
MYSQL = "mysql+asyncmy://chat:s3cret@mysql/chat"
REDIS = "redis://:s3cret@redis:6379/0"
SHARED = {"CHATFLOW_BROKER_URL": RABBIT, "CHATFLOW_DATABASE_URL": MYSQL, "CHATFLOW_CACHE_URL": REDIS}
NAMES = [name for name, _, _ in all_variables()]


def up(environ: dict[str, str], dotenv: Path | None = None) -> Settings:
    return load_settings("up", environ, dotenv)


def refusal(environ: dict[str, str], role: str = "up", dotenv: Path | None = None) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load_settings(role, environ, dotenv)
    assert "\n" not in str(caught.value)
    return caught.value


def test_nothing_set_gives_the_embedded_defaults():
    settings = up({})
    assert settings == Settings()
    assert settings.common.profile is Profile.O12
    assert settings.common.broker_url == settings.common.cache_url == "memory://"
    assert settings.common.database_url == "sqlite:///var/chatflow.db"
    assert (settings.gateway.gateway_port, settings.api.api_port) == (8080, 9091)


def test_all_parts_of_up_share_one_common_part():
    settings = up({"CHATFLOW_PARTITIONS": "4", "CHATFLOW_MESSAGE_MAX_CHARS": "900"})
    assert settings.gateway.common is settings.processor.common is settings.api.common is settings.common
    assert settings.common.partitions == 4
    assert settings.gateway.limits.message_max_chars == settings.api.limits.message_max_chars == 900


def test_the_database_follows_the_data_directory(tmp_path):
    settings = up({"CHATFLOW_DATA_DIR": str(tmp_path)})
    assert settings.common.database_url == f"sqlite:///{tmp_path}/chatflow.db"


def test_settings_are_frozen():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        up({}).common.partitions = 3


@pytest.mark.parametrize(
    ("text", "profile", "caches", "summaries"),
    [("b0", "B0", False, False), ("O1", "O1", True, False), ("o2", "O2", False, True), ("o12", "O12", True, True)],
)
def test_profile_is_read_whatever_its_case(text, profile, caches, summaries):
    found = up({"CHATFLOW_PROFILE": text}).common.profile
    assert (found, found.caches, found.summaries) == (Profile(profile), caches, summaries)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATFLOW_PROFILE", "O3"),
        ("CHATFLOW_GATEWAY_PORT", "65536"),
        ("CHATFLOW_GATEWAY_PORT", "-1"),
        ("CHATFLOW_API_PORT", "http"),
        ("CHATFLOW_PARTITIONS", "0"),
        ("CHATFLOW_PARTITIONS", "8.5"),
        ("CHATFLOW_HELLO_TIMEOUT_S", "0"),
        ("CHATFLOW_HELLO_TIMEOUT_S", "nan"),
        ("CHATFLOW_DRAIN_S", "inf"),
        ("CHATFLOW_DRIVER_FALLBACK", "maybe"),
        ("CHATFLOW_LINGER_MS", "-1"),
        ("CHATFLOW_MESSAGE_MAX_CHARS", "4001"),
        ("CHATFLOW_USERNAME_MAX_CHARS", "65"),
        ("CHATFLOW_ROOM_MAX_CHARS", "65"),
        ("CHATFLOW_LOG_LEVEL", "loud"),
        ("CHATFLOW_LOG_FORMAT", "xml"),
        ("CHATFLOW_BROKER_URL", "http://rabbit"),
        ("CHATFLOW_BROKER_URL", "amqp://a/v,redis://b"),
        ("CHATFLOW_BROKER_URL", "amqp://a/v,amqps://b/v"),
        ("CHATFLOW_DATABASE_URL", "mysql://host/db"),
        ("CHATFLOW_CACHE_URL", "memcached://host"),
        ("CHATFLOW_GATEWAY_URL", "http://host/ws"),
        ("CHATFLOW_CORS_ORIGIN", "chat.example.org"),
        ("CHATFLOW_CORS_ORIGIN", "https://chat.example.org/page"),
    ],
)
def test_an_invalid_value_is_refused_in_one_line_that_names_the_variable(name, value):
    error = refusal({name: value})
    assert error.variable == name
    assert str(error).startswith(f"{name} must")
    assert value in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATFLOW_BROKER_URL", "amqp://"),
        ("CHATFLOW_BROKER_URL", "amqp://u:s3cret@host:port/v"),
        ("CHATFLOW_BROKER_URL", "amqp://u:s3cret@host:99999/v"),
        ("CHATFLOW_BROKER_URL", "amqp://u:s3cret/x@host/v"),
        ("CHATFLOW_BROKER_URL", "amqp://a/v, amqp://u:s3cret@:5672/v"),
        ("CHATFLOW_BROKER_URL", "amqp://u:s3cret@[::1/v"),
        ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://u:s3cret@host:port/v"),
        ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://u:s3cret@host/v?ssl=perhaps"),
        ("CHATFLOW_DATABASE_URL", "sqlite:///"),
        ("CHATFLOW_DATABASE_URL", "sqlite:///:memory:"),
        ("CHATFLOW_CACHE_URL", "redis://u:s3cret/x@host"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_in_one_line_without_its_password(name, value):
    error = refusal({name: value})
    assert error.variable == name
    assert "\n" not in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATFLOW_BROKER_URL", "memory://"),
        ("CHATFLOW_BROKER_URL", "amqps://u:p%40%2F@[::1]:5671/%2F?heartbeat=5"),
        ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://u:p#/?s@host:3306/v?charset=utf8mb4"),
        ("CHATFLOW_DATABASE_URL", "sqlite+aiosqlite:////srv/chat.db"),
        ("CHATFLOW_DATABASE_URL", "sqlite:///x.db"),
    ],
)
def test_an_address_that_makes_sense_is_taken(name, value):
    common = up({name: value}).common
    assert value in (common.broker_url, common.database_url)


@pytest.mark.parametrize("role", ["up", "gateway", "processor", "api", "tool"])
def test_every_role_refuses_an_invalid_value_of_any_other(role):
    assert refusal({**SHARED, "CHATFLOW_BATCH_SMALL": "x"}, role).variable == "CHATFLOW_BATCH_SMALL"


@pytest.mark.parametrize(
    ("given", "upper", "lower"),
    [
        ({"CHATFLOW_USERNAME_MIN_CHARS": "30"}, "CHATFLOW_USERNAME_MAX_CHARS", "CHATFLOW_USERNAME_MIN_CHARS"),
        ({"CHATFLOW_BATCH_MEDIUM": "400"}, "CHATFLOW_BATCH_MEDIUM", "CHATFLOW_BATCH_SMALL"),
        ({"CHATFLOW_BATCH_LARGE": "1999"}, "CHATFLOW_BATCH_LARGE", "CHATFLOW_BATCH_MEDIUM"),
        ({"CHATFLOW_BATCH_MEDIUM_DEPTH": "15001"}, "CHATFLOW_BATCH_LARGE_DEPTH", "CHATFLOW_BATCH_MEDIUM_DEPTH"),
    ],
)
def test_thresholds_out_of_order_are_refused(given, upper, lower):
    error = refusal(given)
    assert error.variable == upper
    assert lower in str(error)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False), ("YES", True)])
def test_a_flag_takes_the_usual_spellings(text, value):
    assert up({"CHATFLOW_DRIVER_FALLBACK": text}).common.driver_fallback is value


def test_two_listeners_of_one_process_cannot_share_a_port():
    error = refusal({"CHATFLOW_API_PORT": "8080"})
    assert "CHATFLOW_API_PORT" in str(error)
    assert "CHATFLOW_GATEWAY_PORT" in str(error)
    assert refusal({**SHARED, "CHATFLOW_GATEWAY_PORT": "8081"}, "gateway").variable == "CHATFLOW_GATEWAY_HEALTH_PORT"


def test_roles_on_different_machines_may_use_the_same_port():
    shared_port = {**SHARED, "CHATFLOW_API_PORT": "8080"}
    assert load_settings("api", shared_port, None).api.api_port == 8080
    assert load_settings("gateway", shared_port, None).gateway.gateway_port == 8080


def test_any_listener_may_ask_for_any_free_port():
    zero = {name: "0" for name in NAMES if name.endswith("_PORT")}
    settings = up(zero)
    assert settings.gateway.gateway_port == settings.gateway.gateway_health_port == settings.api.api_port == 0


def test_an_unknown_variable_is_refused_with_the_likely_name():
    error = refusal({"CHATFLOW_GATEWAY_PROT": "8080"})
    assert error.variable == "CHATFLOW_GATEWAY_PROT"
    assert "did you mean CHATFLOW_GATEWAY_PORT?" in str(error)


def test_an_unknown_variable_in_the_dotenv_file_is_refused_too(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("CHATFLOW_PROFIL=O1\n")
    assert "did you mean CHATFLOW_PROFILE?" in str(refusal({}, dotenv=dotenv))


def test_variables_of_other_programs_are_ignored(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("OTHER=1\n")
    assert up({"PATH": "/bin", "CHAT": "x"}, dotenv) == Settings()


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_counts_as_unset(empty, tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("CHATFLOW_PARTITIONS=4\n")
    assert up({"CHATFLOW_PARTITIONS": empty}, dotenv).common.partitions == 4
    assert refusal({**SHARED, "CHATFLOW_BROKER_URL": empty}, "gateway").variable == "CHATFLOW_BROKER_URL"


def test_the_environment_wins_over_the_dotenv_file(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("# fleet\nCHATFLOW_PARTITIONS=4\nexport CHATFLOW_HOST='0.0.0.0'\n")
    settings = up({"CHATFLOW_PARTITIONS": "16", "CHATFLOW_AUTH": "open"}, dotenv)
    assert (settings.common.partitions, settings.common.host) == (16, "0.0.0.0")  # noqa: S104 what is written above


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "chat.example.org", "::ffff:10.0.0.1"])  # noqa: S104
@pytest.mark.parametrize("role", ["up", "gateway", "processor", "api"])
def test_who_lets_other_machines_in_must_say_how_users_prove_who_they_are(role, host):
    environ = {**SHARED, "CHATFLOW_HOST": host}
    refused = refusal(environ, role)
    assert refused.variable == "CHATFLOW_AUTH"
    assert host in str(refused)
    assert load_settings(role, {**environ, "CHATFLOW_AUTH": "open"}, None).common.is_open_by_hand


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "chat.localhost", "::ffff:127.0.0.1"])
def test_on_loopback_it_is_open_without_a_word_which_is_not_open_by_hand(host):
    common = up({"CHATFLOW_HOST": host}).common
    assert (common.auth, common.is_open_by_hand) == ("open", False)
    assert up({"CHATFLOW_AUTH": "OPEN"}).common.is_open_by_hand


def test_a_tool_listens_to_nobody_and_needs_no_authentication():
    assert load_settings("tool", {"CHATFLOW_HOST": "::"}, None).common.host == "::"


def test_a_proxy_header_needs_a_proxy_that_is_trusted():
    refused = refusal({"CHATFLOW_PROXY_PROTOCOL": "true"})
    assert "CHATFLOW_TRUSTED_PROXIES" in str(refused)
    assert up({"CHATFLOW_PROXY_PROTOCOL": "true", "CHATFLOW_TRUSTED_PROXIES": "::1"}).common.proxy_protocol


def test_a_proxy_header_comes_before_tls_and_cannot_be_read_there():
    environ = {"CHATFLOW_PROXY_PROTOCOL": "true", "CHATFLOW_TRUSTED_PROXIES": "::1"}
    refused = refusal(environ | {"CHATFLOW_TLS_CERT": "cert.pem", "CHATFLOW_TLS_KEY": "key.pem"})
    assert refused.variable == "CHATFLOW_PROXY_PROTOCOL"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATFLOW_AUTH", "none"),
        ("CHATFLOW_ALLOWED_ORIGINS", "chat.example.org"),
        ("CHATFLOW_ALLOWED_ORIGINS", "https://chat.example.org/"),
        ("CHATFLOW_ALLOWED_HOSTS", "https://chat.example.org"),
        ("CHATFLOW_ALLOWED_HOSTS", "chat.example.org:443"),
        ("CHATFLOW_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("CHATFLOW_TRUSTED_PROXIES", "haproxy"),
    ],
)
def test_who_may_come_in_is_checked_at_start(name, value):
    refused = refusal({name: value})
    assert refused.variable == name
    assert value in str(refused)


def test_a_dollar_in_the_dotenv_file_is_a_dollar(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("CHATFLOW_CACHE_URL=redis://:a${HOME}b@redis\n")
    assert up({}, dotenv).common.cache_url == "redis://:a${HOME}b@redis"


@pytest.mark.parametrize("content", [b"CHATFLOW_HOST\n", b"A=1\n'oops\n", b"A=\xff\n"])
def test_an_unreadable_dotenv_file_is_refused_by_name(content, tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(content)
    assert refusal({}, dotenv=dotenv).variable == str(dotenv)


def test_a_directory_in_place_of_the_dotenv_file_is_refused(tmp_path):
    assert refusal({}, dotenv=tmp_path).variable == str(tmp_path)


def test_a_missing_dotenv_file_is_no_error(tmp_path):
    assert up({}, tmp_path / ".env") == Settings()


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("gateway", "CHATFLOW_BROKER_URL"),
        ("gateway", "CHATFLOW_DATABASE_URL"),
        ("processor", "CHATFLOW_BROKER_URL"),
        ("processor", "CHATFLOW_DATABASE_URL"),
        ("api", "CHATFLOW_DATABASE_URL"),
    ],
)
def test_a_separate_role_refuses_what_it_could_not_share(role, missing):
    without = {name: value for name, value in SHARED.items() if name != missing}
    error = refusal(without, role)
    assert error.variable == missing
    assert f"role {role}" in str(error)
    assert load_settings(role, SHARED, None)


def test_naming_the_in_process_broker_does_not_make_it_shareable():
    error = refusal({**SHARED, "CHATFLOW_BROKER_URL": "memory://"}, "processor")
    assert "cannot be shared" in str(error)


@pytest.mark.parametrize("role", ["processor", "api"])
def test_a_role_apart_needs_no_cache(role):
    assert load_settings(role, {**SHARED, "CHATFLOW_CACHE_URL": ""}, None).common.cache_url == "memory://"


def test_a_named_sqlite_file_serves_several_roles():
    environ = {**SHARED, "CHATFLOW_DATABASE_URL": "sqlite:////srv/chat.db"}
    assert load_settings("gateway", environ, None).common.database_url == "sqlite:////srv/chat.db"


def test_commands_take_the_embedded_database_as_up_does():
    assert load_settings("tool", {}, None).common == Common()


def test_a_cluster_is_a_comma_separated_list():
    common = up({"CHATFLOW_BROKER_URL": "amqp://a/v, amqp://b/v"}).common
    assert common.broker_urls == ("amqp://a/v", "amqp://b/v")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("amqp://rabbit/chat", "amqp://rabbit/chat"),
        (RABBIT, "amqp://chat:***@rabbit/chat"),
        ("amqp://u:p@a/v,amqp://u:q@b/v", "amqp://u:***@a/v,amqp://u:***@b/v"),
        ("amqp://u:p@ss/w:ord,x@host/v", "amqp://u:***@host/v"),
        (REDIS, "redis://:***@redis:6379/0"),
        ("redis://h?password=s3cret&db=1", "redis://h?password=***&db=***"),
        ("sqlite:///var/chatflow.db", "sqlite:///var/chatflow.db"),
    ],
)
def test_passwords_in_urls_are_masked(url, shown):
    assert masked(url) == shown


def test_no_way_of_showing_settings_shows_a_password():
    settings = up(SHARED)
    assert "s3cret" not in repr(settings) + str(describe(settings))
    assert "s3cret" not in str(refusal({"CHATFLOW_BROKER_URL": "http://u:s3cret@host"}))


def test_describe_tells_value_and_source_of_each_variable_once(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("CHATFLOW_PARTITIONS=4\nCHATFLOW_HOST=::1\n")
    rows = describe(up({"CHATFLOW_HOST": "::", "CHATFLOW_BROKER_URL": RABBIT, "CHATFLOW_AUTH": "open"}, dotenv))
    assert sorted(name for name, _, _ in rows) == sorted(NAMES)
    assert {
        ("CHATFLOW_HOST", "::", "environment"),
        ("CHATFLOW_PARTITIONS", "4", ".env"),
        ("CHATFLOW_BROKER_URL", "amqp://chat:***@rabbit/chat", "environment"),
        ("CHATFLOW_HEARTBEAT_S", "25", "default"),
    } <= set(rows)


def test_the_example_file_lists_every_variable_with_its_default_and_meaning():
    expected = [(f"# {meaning}", f"#{name}={default}") for name, default, meaning in all_variables()]
    lines = (ROOT / ".env.example").read_text().splitlines()
    assigned = [index for index, line in enumerate(lines) if re.match(r"#?CHATFLOW_", line)]
    assert [(lines[index - 1], lines[index]) for index in assigned] == expected


def test_the_example_file_with_every_line_enabled_equals_the_defaults(tmp_path):
    text = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(re.sub(r"(?m)^#(?=CHATFLOW_)", "", text))
    assert up({}, tmp_path / ".env") == Settings()


def test_parts_can_be_built_without_any_environment():
    assert GatewaySettings(common=Common(partitions=2), gateway_port=0).common.partitions == 2


@given(name=st.sampled_from(NAMES), value=st.text(max_size=40))
def test_any_text_is_either_a_setting_or_a_refusal_that_names_it(name, value):
    refused_for = name
    try:
        assert describe(up({name: value}))
    except SettingsError as error:
        refused_for = str(error)
    assert name in refused_for
    assert "\n" not in refused_for


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://u:p@h/db?passwort={}"),
        ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://u:p@h/db?charset=utf8mb4&pass%77ord={}&ssl=true"),
        ("CHATFLOW_DATABASE_URL", "sqlite:///file.db?key={}"),
        ("CHATFLOW_CACHE_URL", "redis://h/0?auth={}"),
        ("CHATFLOW_CACHE_URL", "redis://h/0#{}"),
        ("CHATFLOW_CACHE_URL", "redis+sentinel://h/name/0?sentinel_password={}"),
        ("CHATFLOW_BROKER_URL", "amqp://u:p@h/v?login={},amqp://u:p@h2/v?login={}"),
        ("CHATFLOW_GATEWAY_URL", "ws://h/?jwt={}"),
    ],
)
def test_no_parameter_of_a_url_that_may_hold_a_secret_is_shown(name, url):
    try:
        settings = load_settings("up", {name: url.replace("{}", "s3cret")}, dotenv=None)
    except SettingsError as exc:
        shown = str(exc)
    else:
        shown = str(describe(settings)) + repr(settings)
    assert "s3cret" not in shown
    assert "***" in shown


def test_parameters_that_say_how_to_connect_are_shown():
    url = "mysql+asyncmy://u:p@h/db?ssl=true&connect_timeout=3"
    shown = str(describe(load_settings("up", {"CHATFLOW_DATABASE_URL": url}, dotenv=None)))
    assert "ssl=true&connect_timeout=3" in shown
