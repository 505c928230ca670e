"""An audit says what is missing, doubled or misplaced, and reads a ledger as clients under faults leave it."""

import json
from collections.abc import Callable, Sequence

import attrs
import pytest

from chatflow.domain.auditing import CHUNK, SHOWN, Ack, InvalidLedger, audit, read_ledger
from chatflow.ports.store import AckedKey, Copy, Finding
from tests.unit.fakes import message_id


@attrs.define
class FakeAuditor:
    """Rows by message id, as user and room, and the findings of a recount."""

    rooms: dict[str, list[Copy]] = attrs.field(factory=dict)
    findings: list[Finding] = attrs.field(factory=list)
    asked: list[int] = attrs.field(factory=list)

    async def recount(
        self, *, summaries: bool, limit: int = 100, started: Callable[[str], None] = lambda _: None
    ) -> tuple[int, list[Finding]]:
        return len(self.rooms), [each for each in self.findings if summaries or each.check == "sequence"][:limit]

    async def copies(self, keys: Sequence[AckedKey]) -> dict[AckedKey, list[Copy]]:
        self.asked.append(len(keys))
        rows = {key: [row for row in self.rooms.get(key[0], ()) if key[1] in {None, row[0]}] for key in keys}
        return {key: found for key, found in rows.items() if found}


def acks(*numbers: int) -> list[Ack]:
    return [Ack(message_id(number), "lobby") for number in numbers]


def line(number: int, room: object = "lobby", **more: object) -> str:
    return json.dumps({"messageId": message_id(number), "roomId": room, **more}) + "\n"


async def test_a_store_that_holds_every_ack_once_is_clean() -> None:
    report = await audit(
        FakeAuditor({message_id(n): [(7, "lobby")] for n in (1, 2, 3)}), summaries=True, ledger=acks(1, 3)
    )
    assert report.is_clean
    assert (report.messages, report.acks, report.findings) == (3, 2, [])


async def test_each_kind_of_wrong_ack_is_counted_and_named() -> None:
    auditor = FakeAuditor(
        {message_id(1): [(7, "lobby")], message_id(2): [(7, "den")], message_id(3): [(7, "lobby"), (7, "lobby")]}
    )
    report = await audit(auditor, summaries=True, ledger=acks(1, 2, 3, 4))
    assert not report.is_clean
    assert (report.missing, report.doubled, report.misplaced) == (1, 1, 1)
    assert {(each.check, each.subject) for each in report.findings} == {
        ("misplaced", message_id(2)),
        ("doubled", message_id(3)),
        ("missing", message_id(4)),
    }


async def test_an_ack_that_names_its_user_is_looked_for_among_that_users_messages() -> None:
    auditor = FakeAuditor({message_id(1): [(7, "lobby"), (8, "den")]})
    ledger = [
        Ack(message_id(1), "lobby", 7),
        Ack(message_id(1), "den", 8),
        Ack(message_id(1), "den", 9),
        Ack(message_id(2), "den", 7),
    ]
    report = await audit(auditor, summaries=True, ledger=ledger)
    assert (report.acks, report.missing, report.misplaced, report.doubled) == (4, 2, 0, 0)
    report = await audit(auditor, summaries=True, ledger=[Ack(message_id(1), "den", 7)])
    assert (report.misplaced, report.findings[0].found) == (1, "in room lobby")


async def test_each_of_two_acks_of_one_id_is_looked_for() -> None:
    auditor = FakeAuditor({message_id(1): [(7, "lobby")]})
    report = await audit(auditor, summaries=True, ledger=[Ack(message_id(1), "den"), Ack(message_id(1), "lobby")])
    assert (report.acks, report.misplaced) == (2, 1)


async def test_an_ack_that_names_no_user_is_found_among_everybodys_messages() -> None:
    auditor = FakeAuditor({message_id(1): [(7, "lobby"), (8, "den")]})
    for room in ("den", "lobby"):
        assert (await audit(auditor, summaries=True, ledger=[Ack(message_id(1), room)])).is_clean
    assert (await audit(auditor, summaries=True, ledger=[Ack(message_id(1), "attic")])).misplaced == 1


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
    report = await audit(FakeAuditor({message_id(1): [(7, "lobby")]}), summaries=True, ledger=acks(1, 1))
    assert report.is_clean
    assert report.acks == 2


def test_a_ledger_names_rooms_as_any_frame_may_and_may_say_more() -> None:
    lines = [
        line(1, "room5"),
        "\n",
        "  \n",
        line(2, seq=7, userId="41"),
        line(3).upper().replace("MESSAGEID", "messageId").replace("ROOMID", "roomId"),
    ]
    assert list(read_ledger(lines)) == [
        Ack(message_id(1), "5"),
        Ack(message_id(2), "lobby", 41),
        Ack(message_id(3), "LOBBY"),
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
        (line(1, userId="ada"), "userId must be a valid number"),
    ],
)
def test_a_line_that_is_not_an_ack_is_refused_with_its_number(broken: str, reason: str) -> None:
    with pytest.raises(InvalidLedger, match=rf"line 2: .*{reason}"):
        list(read_ledger([line(1), broken]))
