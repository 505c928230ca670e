"""Use case: prove from the store alone that nothing acknowledged was lost, doubled or reordered."""

import json
from collections.abc import Callable, Iterable, Iterator

import attrs

from chatflow.domain.messages.errors import InvalidInput
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.messages.validation import valid_message_id
from chatflow.ports.store import Auditor, Finding

CHUNK = 1_000
SHOWN = 100


class InvalidLedger(InvalidInput):
    """A line of a ledger that is not an ack."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


@attrs.frozen
class Ack:
    """One acknowledgement that a client got."""

    message_id: str
    room_id: str


@attrs.define
class AuditReport:
    """What was counted and found wrong. ``findings`` holds the first `SHOWN`; the counts include all."""

    messages: int = 0
    acks: int = 0
    missing: int = 0
    doubled: int = 0
    misplaced: int = 0
    findings: list[Finding] = attrs.field(factory=list)
    structural: int = 0

    @property
    def gaps(self) -> int:
        """Rooms with wrong numbering among the findings."""
        return sum(finding.check in {"sequence", "head"} for finding in self.findings)

    @property
    def wrong_summaries(self) -> int:
        """Summary rows that differ from the recount, among the findings."""
        return sum(finding.check.endswith("_summary") for finding in self.findings)

    @property
    def lost_commits(self) -> int:
        """Partitions with fewer rows than processors had confirmed."""
        return sum(finding.check == "commits" for finding in self.findings)

    @property
    def is_clean(self) -> bool:
        """Nothing is wrong."""
        return not (self.missing or self.doubled or self.misplaced or self.structural)


def read_ledger(lines: Iterable[str]) -> Iterator[Ack]:
    """Acks from JSON lines of ``{"messageId","roomId"}``; further members are ignored, as are blank lines.

    A last line without its line end was cut short while it was written, and is left out.

    Raises:
        InvalidLedger: names the line.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _ack(line, number)
        except InvalidLedger:
            if line.endswith("\n"):
                raise


async def audit(
    auditor: Auditor,
    *,
    summaries: bool,
    ledger: Iterable[Ack] = (),
    started: Callable[[str], None] = lambda _: None,
) -> AuditReport:
    """Recount the store, then look up every ack of the ledger, a thousand at a time.

    ``started`` is told what is checked next, in words; from any thread.

    Raises:
        StoreError: the store cannot be read.
        InvalidLedger: the ledger cannot be read.
    """
    report = AuditReport()
    report.messages, findings = await auditor.recount(summaries=summaries, limit=SHOWN, started=started)
    report.structural = len(findings)
    report.findings += findings
    chunk: dict[str, Ack] = {}
    for ack in ledger:
        report.acks += 1
        chunk[ack.message_id] = ack
        if len(chunk) >= CHUNK:
            started(f"acks of the ledger, {report.acks} so far")
            await _compare(auditor, chunk, report)
            chunk = {}
    await _compare(auditor, chunk, report)
    return report


async def _compare(auditor: Auditor, chunk: dict[str, Ack], report: AuditReport) -> None:
    copies = await auditor.copies(list(chunk)) if chunk else {}
    for message_id, ack in chunk.items():
        rooms = copies.get(message_id, [])
        if not rooms:
            report.missing += 1
            _note(report, Finding("missing", message_id, f"in room {ack.room_id}", "not stored"))
        elif len(rooms) > 1:
            report.doubled += 1
            _note(report, Finding("doubled", message_id, "1 row", f"{len(rooms)} rows"))
        elif rooms[0] != ack.room_id:
            report.misplaced += 1
            _note(report, Finding("misplaced", message_id, f"in room {ack.room_id}", f"in room {rooms[0]}"))


def _note(report: AuditReport, finding: Finding) -> None:
    if len(report.findings) < SHOWN:
        report.findings.append(finding)


def _ack(line: str, number: int) -> Ack:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidLedger(number, "not JSON") from exc
    if not isinstance(fields, dict):
        raise InvalidLedger(number, "not an object")
    room = fields.get("roomId")
    if not isinstance(room, str):
        raise InvalidLedger(number, "roomId is required")
    try:
        message_id = valid_message_id(fields.get("messageId"), "messageId")
        room_id = normalise_room(room)
    except InvalidInput as exc:
        raise InvalidLedger(number, str(exc)) from exc
    if message_id is None:
        raise InvalidLedger(number, "messageId is required")
    return Ack(message_id, room_id)
