"""One log for chatflow and its libraries: an event name and key-values per line, on stderr.

The text of frames never gets here: no call site passes it, tracebacks are rendered without local variables, and
libraries are heard from WARNING up, above the level at which any of them prints traffic.
"""

import json
import logging
import sys
from typing import Any, BinaryIO, Literal

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["auto", "console", "json"]

_LIBRARY_LEVEL = logging.WARNING
_PLAIN_TRACEBACK = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logs(*, level: str = "info", fmt: LogFormat = "auto", stream: BinaryIO | None = None) -> None:
    """Set up structlog and the standard library's root logger; the last call wins.

    Args:
        level: the least severe event that is written, by name; libraries stay at WARNING or above.
        fmt: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        stream: where lines go, stderr by default.
    """
    out = sys.stderr.buffer if stream is None else stream
    least = logging.getLevelNamesMapping()[level.upper()]
    pretty = fmt == "console" or (fmt == "auto" and out.isatty())
    structlog.configure(
        processors=[*_shared(), *(_console(colors=out.isatty()) if pretty else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.BytesLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    _route_libraries(max(least, _LIBRARY_LEVEL))


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _json() -> list[Processor]:
    return [_PLAIN_TRACEBACK, structlog.processors.JSONRenderer(serializer=_dumps)]


def _dumps(event: dict[str, Any], **_: Any) -> bytes:
    """One line whatever is in the event: what JSON cannot carry is written as its repr."""
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # orjson's own error is one: lone surrogates, integers past 64 bits
        return json.dumps({key: repr(value) for key, value in event.items()}).encode()


def _console(*, colors: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
    )

    def encoded(logger: Any, method: str, event: Any) -> bytes:
        return str(renderer(logger, method, event)).encode(errors="replace")

    return [encoded]


class _IntoStructlog(logging.Handler):
    """Hands the records of libraries to the same renderer, and so to the same stream and format."""

    def __init__(self) -> None:
        super().__init__()
        self._log: FilteringBoundLogger = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            detail = record.getMessage()
            self._log.log(level, "library.logged", library=record.name, detail=detail, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 a log line that cannot be written must not end its caller
            self.handleError(record)


def _route_libraries(level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _IntoStructlog)]:
        root.removeHandler(handler)
    root.addHandler(_IntoStructlog())
    root.setLevel(level)
    logging.captureWarnings(capture=True)
