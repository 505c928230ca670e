"""One log for chatflow and its libraries: an event name and key-values per line, on stderr.

It never holds the text of frames: no call passes it, tracebacks are rendered without local variables, and libraries
are heard from WARNING up, above the level at which any of them logs traffic.
"""

import codecs
import io
import json
import logging
import sys
from typing import Any, BinaryIO, Literal, TextIO

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor

from chatflow.entrypoints.terminal import visible, visible_json

LogFormat = Literal["auto", "console", "json"]

_NAME = "chatflow"
"""Of the logger for every event of our own, and of the handler."""
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
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: logging.getLogger(_NAME),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(codecs.getwriter("utf-8")(out, "replace"))
    handler.set_name(_NAME)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*shared, _library_event],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(_console(colors=out.isatty()) if pretty else _json()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [each for each in root.handlers if each.get_name() != _NAME] + [handler]
    root.setLevel(max(least, _LIBRARY_LEVEL))
    logging.getLogger(_NAME).setLevel(least)
    logging.captureWarnings(capture=True)


def _library_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """What a library logged, as an event of ours; a level of its own is rounded down to a standard one."""
    record: logging.LogRecord = event["_record"]
    level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
    return {
        **event,
        "event": "library.logged",
        "library": record.name,
        "detail": event["event"],
        "level": logging.getLevelName(level).lower(),
    }


def _json() -> list[Processor]:
    return [_PLAIN_TRACEBACK, structlog.processors.JSONRenderer(serializer=_dumps)]


def _dumps(event: dict[str, Any], **_: Any) -> str:
    """One line whatever is in the event: what JSON cannot carry is written as its repr."""
    try:
        return visible_json(orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode())
    except TypeError:  # orjson's own error is one: lone surrogates, integers past 64 bits
        return json.dumps({key: repr(value) for key, value in event.items()})


def _console(*, colors: bool) -> list[Processor]:
    return [
        _visible_values,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_visible_traceback, pad_event_to=28),
    ]


def _visible_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Texts may be a client's; anything else is written as its repr, which escapes by itself."""
    return {key: visible(value) if isinstance(value, str) else value for key, value in event.items()}


def _visible_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(visible(text.getvalue()))
