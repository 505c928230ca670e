import os
from pathlib import Path

import attrs
import pytest

from chatflow.entrypoints.settings import Settings, SettingsError, all_variables, describe, load_settings, secret_files
from chatflow.entrypoints.settings.environment import Assignments, read_group
from chatflow.entrypoints.settings.fields import secret

URL = "mysql+asyncmy://chat:s3cret@mysql/chat"


def secret_file(directory: Path, content: str | bytes = URL, mode: int = 0o600) -> str:
    path = directory / "secret"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return str(path)


def up(environ: dict[str, str], dotenv: Path | None = None) -> Settings:
    return load_settings("up", environ, dotenv)


def refusal(environ: dict[str, str], dotenv: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings("up", environ, dotenv)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_value_is_read_from_a_file_without_the_newline_at_its_end(tmp_path, end):
    settings = up({"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path, URL + end)})
    assert settings.common.database_url == URL
    assert ("CHATFLOW_DATABASE_URL", "mysql+asyncmy://chat:***@mysql/chat", "file") in describe(settings)


@pytest.mark.parametrize("name", [name for name, _, _ in all_variables()])
def test_every_variable_may_come_from_a_file(tmp_path, name):
    path = secret_file(tmp_path, "\x01")
    try:
        up({"CHATFLOW_AUTH": "" if name == "CHATFLOW_AUTH" else "open", f"{name}_FILE": path})
    except SettingsError as exc:  # most values are none
        assert name in str(exc)  # noqa: PT017  # read, and only then refused


def test_the_dotenv_file_may_name_the_file(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"CHATFLOW_DATABASE_URL_FILE={secret_file(tmp_path)}\n")
    assert up({}, dotenv).common.database_url == URL


def test_a_role_apart_counts_a_database_from_a_file_as_named(tmp_path):
    environ = {"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path)}
    assert load_settings("api", environ, None).common.database_url == URL


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_value_and_its_file_at_once_are_refused_by_both_names(tmp_path, place):
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"CHATFLOW_DATABASE_URL={URL}\n" if place == ".env" else "")
    both = {"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path)}
    if place == "environment":
        both["CHATFLOW_DATABASE_URL"] = URL
    error = refusal(both, dotenv)
    assert error.startswith("CHATFLOW_DATABASE_URL_FILE and CHATFLOW_DATABASE_URL are both set")
    assert place in error


def test_an_empty_name_of_a_file_counts_as_unset():
    assert up({"CHATFLOW_DATABASE_URL_FILE": " "}) == Settings()


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"", 0o600, "is empty"),
        (b"\n\n", 0o600, "is empty"),
        (b"s3cret\0", 0o600, "NUL"),
        (b"s3cret\xff", 0o600, "not UTF-8"),
        (b"s3cret" * 20_000, 0o600, "longer than 65536 bytes"),
        (b"s3cret", 0o604, "everybody may read it (mode 0604"),
        (b"s3cret", 0o620, "others may write it (mode 0620"),
        (b"s3cret", 0o602, "others may write it (mode 0602"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path, content, mode, why):
    error = refusal({"CHATFLOW_CACHE_URL_FILE": secret_file(tmp_path, content, mode)})
    assert error.startswith("CHATFLOW_CACHE_URL_FILE names ")
    assert why in error


def test_a_missing_file_a_directory_and_a_pipe_are_refused(tmp_path):
    assert "no such file" in refusal({"CHATFLOW_CACHE_URL_FILE": str(tmp_path / "absent")})
    assert "is a directory" in refusal({"CHATFLOW_CACHE_URL_FILE": str(tmp_path)})
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no regular file" in refusal({"CHATFLOW_CACHE_URL_FILE": str(tmp_path / "pipe")})


def test_a_group_may_read_it_and_a_container_runtime_may_mount_it_for_all(tmp_path, monkeypatch):
    assert up({"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path, mode=0o640)})
    monkeypatch.setattr(secret_files, "RUNTIME_SECRETS", tmp_path)
    assert up({"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path, mode=0o444)})
    assert "may write" in refusal({"CHATFLOW_DATABASE_URL_FILE": secret_file(tmp_path, mode=0o666)})


def test_a_wrong_value_in_a_file_is_refused_without_being_shown(tmp_path):
    error = refusal({"CHATFLOW_PARTITIONS_FILE": secret_file(tmp_path, "root:s3cret:1")})
    assert error.startswith("CHATFLOW_PARTITIONS must be a whole number")
    assert error.endswith("(it is from CHATFLOW_PARTITIONS_FILE)")


@pytest.mark.parametrize("end", ["\n", "\r", "\t", "\x00"])
def test_a_url_over_two_lines_is_refused_and_masked(end):
    assert "one line" in refusal({"CHATFLOW_BROKER_URL": f"amqp://u:s3cret{end}s3cret@host/v"})


def test_an_unknown_name_of_a_file_is_refused_with_the_likely_one():
    assert "did you mean CHATFLOW_DATABASE_URL" in refusal({"CHATFLOW_DATABASE_URI_FILE": "x"})


def test_a_secret_is_never_shown():
    @attrs.frozen
    class Group:
        key: str = secret("what signs")

    group = read_group(Group, Assignments({"CHATFLOW_KEY": "s3cret"}, {"CHATFLOW_KEY": "environment"}))
    assert group.key == "s3cret"
    assert "s3cret" not in repr(group)
    (variable,) = [field.metadata["chatflow.variable"] for field in attrs.fields(Group)]
    assert (variable.shown("s3cret"), variable.shown("")) == ("***", "")
