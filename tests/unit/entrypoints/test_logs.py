import io
import json
import logging
import time
import warnings
from collections.abc import Iterator

import pytest
import structlog

from chatflow.adapters.audit_log import AuditLog
from chatflow.entrypoints.logs import configure_logs


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    drivers = [logging.getLogger(name) for name in ("aiormq", "aio_pika")]
    quiet = [driver.level for driver in drivers]
    for driver in drivers:
        driver.setLevel(logging.NOTSET)  # a broker that was opened before has silenced them
    yield
    for driver, before in zip(drivers, quiet, strict=True):
        driver.setLevel(before)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("chatflow").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with_a_local_secret() -> None:
    frame = "what somebody wrote"
    raise ValueError(len(frame))


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


def test_json_lines_carry_event_level_time_and_key_values(stream):
    configure_logs(fmt="json", stream=stream)
    structlog.get_logger().bind(connection="c1").info("buffer.flushed", messages=3)
    [line] = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "buffer.flushed", "level": "info", "connection": "c1", "messages": 3}


def test_events_below_the_level_are_not_written(stream):
    configure_logs(level="warning", fmt="json", stream=stream)
    log = structlog.get_logger()
    log.info("quiet.event")
    log.warning("loud.event")
    assert [line["event"] for line in lines(stream)] == ["loud.event"]


def test_auto_is_json_away_from_a_terminal(stream):
    configure_logs(stream=stream)
    structlog.get_logger().info("role.started")
    assert lines(stream)[0]["event"] == "role.started"


def test_auto_is_readable_text_on_a_terminal():
    terminal = Terminal()
    configure_logs(stream=terminal)
    structlog.get_logger().info("role.started", port=8080)
    text = terminal.getvalue().decode()
    assert "role.started" in text
    assert not text.startswith("{")
    assert text.count("\n") == 1


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_libraries_go_through_the_same_renderer_from_warning_up(stream, fmt):
    configure_logs(level="debug", fmt=fmt, stream=stream)
    for name in ("websockets.server", "aiohttp.access", "aiormq.connection", "sqlalchemy.engine", "alembic"):
        logging.getLogger(name).info("traffic of %s", name)
        logging.getLogger(name).warning("trouble in %s", name)
    text = stream.getvalue().decode()
    assert text.count("library.logged") == 5
    assert "trouble in websockets.server" in text
    assert "traffic" not in text


def test_libraries_keep_quiet_at_a_higher_level(stream):
    configure_logs(level="error", fmt="json", stream=stream)
    logging.getLogger("aiohttp").warning("a warning")
    logging.getLogger("aiohttp").error("an error")
    assert [line["detail"] for line in lines(stream)] == ["an error"]


def test_a_level_of_a_librarys_own_is_rounded_down(stream):
    configure_logs(fmt="json", stream=stream)
    logging.getLogger("aiormq").log(35, "between")
    logging.getLogger("aiormq").log(70, "beyond")
    assert [line["level"] for line in lines(stream)] == ["warning", "critical"]


def test_configuring_again_does_not_write_twice(stream):
    configure_logs(fmt="json", stream=io.BytesIO())
    configure_logs(fmt="json", stream=stream)
    logging.getLogger("aiohttp").warning("once")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("logger", ["ours", "library"])
def test_tracebacks_are_written_without_local_variables(stream, fmt, logger):
    configure_logs(fmt=fmt, stream=stream)
    try:
        fail_with_a_local_secret()
    except ValueError:
        if logger == "ours":
            structlog.get_logger().exception("role.crashed")
        else:
            logging.getLogger("aiohttp").exception("request failed")
    text = stream.getvalue().decode()
    assert "fail_with_a_local_secret" in text
    assert "what somebody wrote" not in text


def test_values_that_json_does_not_know_are_written_as_their_repr(stream):
    configure_logs(fmt="json", stream=stream)
    structlog.get_logger().info("odd.value", value=b"\xff", by={1: "one"})
    [line] = lines(stream)
    assert line["value"] == repr(b"\xff")
    assert line["by"] == {"1": "one"}


def test_text_that_utf8_cannot_carry_does_not_lose_the_line(stream):
    for fmt in ("json", "console"):
        configure_logs(fmt=fmt, stream=stream)
        structlog.get_logger().info("odd.text", text="\ud800")
    assert stream.getvalue().count(b"odd.text") == 2


def test_a_record_that_cannot_be_written_does_not_end_its_caller(stream, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    configure_logs(fmt="json", stream=stream)
    logging.getLogger("aiohttp").warning("%d requests", "many")
    logging.getLogger("aiohttp").warning("the next one")
    assert [line["detail"] for line in lines(stream)] == ["the next one"]


def test_python_warnings_become_log_lines(stream):
    configure_logs(fmt="json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    [line] = lines(stream)
    assert "old call" in str(line["detail"])


def test_without_a_file_of_its_own_the_audit_trail_is_logged_at_any_level(stream):
    configure_logs(level="critical", fmt="json", stream=stream)
    AuditLog(time.monotonic).acted("process.started", "process")
    assert [line["event"] for line in lines(stream)] == ["process.started"]
