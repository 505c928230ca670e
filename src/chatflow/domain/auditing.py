"""Use case: prove from the store alone that nothing acknowledged was lost, doubled or reordered."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import attrs

from chatflow.domain.messages.errors import InvalidInput
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.messages.validation import MessageLimits, valid_message_id, valid_user_id
from chatflow.ports.store import AckedKey, Auditor, Copy, Finding

CHUNK = 1_000
SHOWN = 100
LIMITS = MessageLimits()


class InvalidLedger(InvalidInput):
    """A line of a ledger that is not an ack."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


@attrs.frozen
class Ack:
    """One acknowledgement that a client got.

    Attributes:
        user_id: whose message it was; ``None`` in a ledger that does not say.
    """

    message_id: str
    room_id: str
    user_id: int | None = None

    @property
    def key(self) -> AckedKey:
        """What it is looked up by."""
        return self.message_id, self.user_id


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
    """Acks from JSON lines of ``{"messageId","roomId","userId"}``; other members and blank lines are ignored.

    Ids are unique per user. Without ``userId``, which older ledgers do not have, any user's message will do. A last
    line without its line end was cut short while it was written, and is left out.

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
    chunk: set[Ack] = set()
    for ack in ledger:
        report.acks += 1
        chunk.add(ack)
        if len(chunk) >= CHUNK:
            started(f"acks of the ledger, {report.acks} so far")
            await _compare(auditor, chunk, report)
            chunk = set()
    await _compare(auditor, chunk, report)
    return report


async def _compare(auditor: Auditor, chunk: set[Ack], report: AuditReport) -> None:
    copies = await auditor.copies(list({ack.key for ack in chunk})) if chunk else {}
    for ack in chunk:
        stored = copies.get(ack.key, [])
        rooms = sorted({room for _, room in stored})
        if not stored:
            report.missing += 1
            _note(report, Finding("missing", ack.message_id, f"in room {ack.room_id}", "not stored"))
        elif (most := _most_of_one_user(stored)) > 1:
            report.doubled += 1
            _note(report, Finding("doubled", ack.message_id, "1 row", f"{most} rows"))
        elif ack.room_id not in rooms:
            report.misplaced += 1
            found = f"in room {', '.join(rooms)}"
            _note(report, Finding("misplaced", ack.message_id, f"in room {ack.room_id}", found))


def _most_of_one_user(copies: list[Copy]) -> int:
    return max(Counter(user_id for user_id, _ in copies).values())


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
        user = fields.get("userId")
        user_id = None if user is None else valid_user_id(user, LIMITS, "userId")
    except InvalidInput as exc:
        raise InvalidLedger(number, str(exc)) from exc
    if message_id is None:
        raise InvalidLedger(number, "messageId is required")
    return Ack(message_id, room_id, user_id)
