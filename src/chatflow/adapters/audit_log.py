"""The audit trail as a channel of structlog: lines in a file of its own, or among the other lines of the log.

The file is opened anew after logrotate has moved it. One line is one write, so processes may share a file.
"""

import asyncio
import contextlib
import logging
import logging.handlers
import os
import re
import stat
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import attrs
import structlog
from structlog.stdlib import ProcessorFormatter

from chatflow.ports.audit_trail import AuditTrail, Facts

CHANNEL = "chatflow.audit"
WINDOW_S = 1.0
LONGEST_CHARS = 256
COMPLAINT_S = 60.0
OTHERS = "others"
"""The address under which is counted what does not fit into a second."""

_TOKEN = re.compile(r"[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
"""A JSON Web Token, should one ever get here."""

Key = tuple[str, ...]

log = structlog.get_logger()


class AuditFile(logging.handlers.WatchedFileHandler):
    """Appends to a file that only its owner may read, unless an administrator gave it to a group.

    Args:
        failed: called with the reason when a line could not be written.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        super().__init__(path, encoding="utf-8")
        self.setFormatter(
            ProcessorFormatter(
                processors=[ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the logger, which must not fail."""
        line = self.format(record) + self.terminator
        try:
            self.reopenIfNeeded()
            file = self.stream or self._reopened()
            file.write(line)
            file.flush()
        except OSError as exc:
            self._forget()
            self._failed(exc)

    def _reopened(self) -> TextIOWrapper:
        self.stream = file = self._open()
        self._statstream()
        return file

    def _forget(self) -> None:
        """Keep nothing of a line that did not fit: it would stand before the next one."""
        if (file := self.stream) is not None:
            self.stream = None  # as the handler itself does
            with contextlib.suppress(OSError):
                file.close()

    def _open(self) -> TextIOWrapper:
        file = open(  # noqa: SIM115  # the handler closes it; pathlib takes no opener
            self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
        )
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
            os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode) & ~stat.S_IRWXO)
        return file


@attrs.define
class Repeated:
    """An entry, and how often it came again within its second."""

    entry: Mapping[str, Any]
    again: int = 0


@attrs.define(eq=False)
class AuditLog:
    """Writes entries; sign-ins and denials that repeat within a second are written once and then counted.

    Args:
        clock: monotonic seconds.
        path: of its file; ``None`` writes to the log of the process, whatever level that has.
        lines_per_s: different sign-ins and denials of one second that are written; further ones are counted together.
        facts: stand in every entry.

    Attributes:
        entries: lines written.
        summed: sign-ins and denials that were counted instead.
        failures: lines that could not be written.
    """

    clock: Callable[[], float]
    path: Path | None = None
    lines_per_s: int = attrs.field(kw_only=True, default=200)
    facts: Mapping[str, str] = attrs.field(kw_only=True, factory=dict)
    entries: int = attrs.field(default=0, init=False)
    summed: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    _window: dict[Key, Repeated] = attrs.field(factory=dict, init=False)
    _until: float = attrs.field(default=0.0, init=False)
    _quiet_until: float = attrs.field(default=0.0, init=False)
    _logger: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        channel = logging.getLogger(CHANNEL)
        channel.setLevel(logging.INFO)
        for handler in channel.handlers[:]:
            channel.removeHandler(handler)
            handler.close()
        channel.propagate = self.path is None
        if self.path is not None:
            channel.addHandler(AuditFile(self.path, self._note_failure))
        self._logger = structlog.wrap_logger(
            channel,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def signed_in(self, user_id: int, username: str, address: str, token_id: str = "") -> None:
        """See `AuditTrail.signed_in`."""
        who = {"user_id": user_id, "username": username, "address": address, "token_id": token_id}
        self._sum_up(("session.signed_in", address, str(user_id)), {"event": "session.signed_in", **who})

    def denied(self, reason: str, address: str, **facts: Unpack[Facts]) -> None:
        """See `AuditTrail.denied`."""
        entry = {"event": "access.denied", "reason": reason, "address": address, **facts}
        self._sum_up(("access.denied", address, reason), entry)

    def acted(self, action: str, by: str, **facts: Unpack[Facts]) -> None:
        """See `AuditTrail.acted`."""
        self._write({"event": action, "by": by, **facts})

    async def run(self) -> None:
        """Write the sums of each second, until cancelled."""
        while True:
            await asyncio.sleep(WINDOW_S)
            self.settle()

    def settle(self) -> None:
        """Write what has been counted, if its second is over."""
        if self.clock() >= self._until:
            self._end_window()

    def close(self) -> None:
        """Write what has been counted, and close the file."""
        self._end_window()
        for handler in logging.getLogger(CHANNEL).handlers:
            handler.close()

    def counts(self) -> dict[str, int]:
        """For metrics."""
        return {"audit_entries": self.entries, "audit_summed": self.summed, "audit_failures": self.failures}

    def _sum_up(self, key: Key, entry: Mapping[str, Any]) -> None:
        self.settle()
        if not self._window:
            self._until = self.clock() + WINDOW_S
        if (known := self._window.get(key)) is None and len(self._window) >= self.lines_per_s:
            key = (str(entry["event"]), OTHERS)
            known = self._window.setdefault(key, Repeated({"event": entry["event"], "address": OTHERS}))
        if known is not None:
            known.again += 1
            self.summed += 1
            return
        self._window[key] = Repeated(entry)
        self._write(entry)

    def _end_window(self) -> None:
        window, self._window = self._window, {}
        for repeated in window.values():
            if repeated.again:
                self._write({**repeated.entry, "again": repeated.again})

    def _write(self, entry: Mapping[str, Any]) -> None:
        facts = {name: _clean(value) for name, value in {**entry, **self.facts}.items() if value != ""}
        self.entries += 1
        self._logger.info(facts.pop("event"), **facts)

    def _note_failure(self, exc: Exception) -> None:
        self.failures += 1
        if self.clock() >= self._quiet_until:
            self._quiet_until = self.clock() + COMPLAINT_S
            log.error("audit.not_written", path=str(self.path), error=str(exc), failures=self.failures)


def _clean(value: Any) -> Any:
    """Short, printable, and without a token, whatever a client has put into it."""
    if isinstance(value, Mapping):
        return {str(name): _clean(each) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    letters = value[: 16 * LONGEST_CHARS]
    text = "".join([letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in letters])
    return _TOKEN.sub("***", text)[:LONGEST_CHARS]


if TYPE_CHECKING:

    def _check(trail: AuditLog) -> AuditTrail:
        return trail
