"""An audit says what is missing, doubled or misplaced, and reads a ledger as clients under faults leave it."""

import json
from collections.abc import Callable, Sequence

import attrs
import pytest

from chatflow.domain.auditing import CHUNK, SHOWN, Ack, InvalidLedger, audit, read_ledger
from chatflow.ports.store import Finding
from tests.unit.fakes import message_id


@attrs.define
class FakeAuditor:
    """Copies by message id, and the findings of a recount."""

    rooms: dict[str, list[str]] = attrs.field(factory=dict)
    findings: list[Finding] = attrs.field(factory=list)
    asked: list[int] = attrs.field(factory=list)

    async def recount(
        self, *, summaries: bool, limit: int = 100, started: Callable[[str], None] = lambda _: None
    ) -> tuple[int, list[Finding]]:
        return len(self.rooms), [each for each in self.findings if summaries or each.check == "sequence"][:limit]

    async def copies(self, message_ids: Sequence[str]) -> dict[str, list[str]]:
        self.asked.append(len(message_ids))
        return {each: self.rooms[each] for each in message_ids if each in self.rooms}


def acks(*numbers: int) -> list[Ack]:
    return [Ack(message_id(number), "lobby") for number in numbers]


def line(number: int, room: object = "lobby", **more: object) -> str:
    return json.dumps({"messageId": message_id(number), "roomId": room, **more}) + "\n"


async def test_a_store_that_holds_every_ack_once_is_clean() -> None:
    report = await audit(FakeAuditor({message_id(n): ["lobby"] for n in (1, 2, 3)}), summaries=True, ledger=acks(1, 3))
    assert report.is_clean
    assert (report.messages, report.acks, report.findings) == (3, 2, [])


async def test_each_kind_of_wrong_ack_is_counted_and_named() -> None:
    auditor = FakeAuditor({message_id(1): ["lobby"], message_id(2): ["den"], message_id(3): ["lobby", "lobby"]})
    report = await audit(auditor, summaries=True, ledger=acks(1, 2, 3, 4))
    assert not report.is_clean
    assert (report.missing, report.doubled, report.misplaced) == (1, 1, 1)
    assert {(each.check, each.subject) for each in report.findings} == {
        ("misplaced", message_id(2)),
        ("doubled", message_id(3)),
        ("missing", message_id(4)),
    }


@pytest.mark.parametrize(
    ("check", "gaps", "summaries"),
    [("sequence", 1, 0), ("head", 1, 0), ("room_summary", 0, 1), ("user_room_summary", 0, 1)],
)
async def test_what_a_recount_finds_makes_the_report_unclean(check: str, gaps: int, summaries: int) -> None:
    report = await audit(FakeAuditor(findings=[Finding(check, "x", "1", "2")]), summaries=True)
    assert not report.is_clean
    assert (report.gaps, report.wrong_summaries) == (gaps, summaries)


async def test_summaries_are_recounted_only_where_they_are_kept() -> None:
    wrong = FakeAuditor(findings=[Finding("room_summary", "x", "1", "2")])
    assert (await audit(wrong, summaries=False)).is_clean


async def test_a_long_ledger_is_looked_up_in_chunks_and_listed_in_part() -> None:
    auditor = FakeAuditor()
    report = await audit(auditor, summaries=True, ledger=acks(*range(2 * CHUNK + 1)))
    assert report.missing == report.acks == 2 * CHUNK + 1
    assert auditor.asked == [CHUNK, CHUNK, 1]
    assert len(report.findings) == SHOWN


async def test_an_ack_that_came_twice_is_one_message() -> None:
    report = await audit(FakeAuditor({message_id(1): ["lobby"]}), summaries=True, ledger=acks(1, 1))
    assert report.is_clean
    assert report.acks == 2


def test_a_ledger_names_rooms_as_any_frame_may_and_may_say_more() -> None:
    lines = [
        line(1, "room5"),
        "\n",
        "  \n",
        line(2, seq=7),
        line(3).upper().replace("MESSAGEID", "messageId").replace("ROOMID", "roomId"),
    ]
    assert [(each.message_id, each.room_id) for each in read_ledger(lines)] == [
        (message_id(1), "5"),
        (message_id(2), "lobby"),
        (message_id(3), "LOBBY"),
    ]


def test_a_last_line_that_was_cut_short_is_left_out() -> None:
    assert len(list(read_ledger([line(1), line(2)[:30]]))) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("nonsense\n", "not JSON"),
        ("[" * 100_000 + "\n", "not JSON"),
        ("[]\n", "not an object"),
        ('{"messageId":"x","roomId":"a"}\n', "UUID"),
        ('{"roomId":"a"}\n', "messageId is required"),
        (line(1, None), "roomId is required"),
        (line(1, "no/room"), "Invalid roomId"),
    ],
)
def test_a_line_that_is_not_an_ack_is_refused_with_its_number(broken: str, reason: str) -> None:
    with pytest.raises(InvalidLedger, match=rf"line 2: .*{reason}"):
        list(read_ledger([line(1), broken]))
