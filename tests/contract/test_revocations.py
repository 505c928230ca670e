"""What every log of revocations promises: ids that only grow, nothing forgotten before its time, and a bound."""

import asyncio
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from chatflow.adapters.memory.revocations import MemoryRevocationLog
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.revocations import SqlRevocationLog
from chatflow.ports.revocations import Revocation, RevocationLog, RevocationsFull
from tests.contract.store_cases import NOW_US
from tests.contract.store_maria import maria_schemas

__all__ = ["maria_schemas"]

HOUR_US = 3_600_000_000


@pytest.fixture(params=["memory", "sqlite", "mariadb", "mariadb-fallback"])
async def logs(request, tmp_path) -> AsyncIterator[Callable[[], RevocationLog]]:
    """Makes the views of several processes."""
    if request.param == "memory":
        log = MemoryRevocationLog()
        yield lambda: log
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/chatflow.db"
        migrate.upgrade(url)
    else:
        request.getfixturevalue("maria_server").make_ready()
        url = request.getfixturevalue("maria_schemas").emptied().url
    databases = []

    def make() -> RevocationLog:
        databases.append(open_database(url, driver_fallback=request.param.endswith("fallback")))
        return SqlRevocationLog(databases[-1])

    yield make
    for database in databases:
        await database.close()


@pytest.fixture
def log(logs) -> RevocationLog:
    return logs()


def revoke(user_id: int | None = 7, token_id: str | None = None, *, at_us: int = NOW_US, lasts_us: int = HOUR_US):
    return Revocation(user_id, token_id, at_us, at_us + lasts_us, "cli:ada")


async def append(log: RevocationLog, *revocations: Revocation, limit: int = 100) -> list[Revocation]:
    return [attrs.evolve(each, id=await log.append(each, limit=limit)) for each in revocations]


async def test_every_field_survives_and_another_process_reads_it(logs, log):
    kept = await append(log, revoke(2**53 - 1), revoke(None, "Zo\u00eb \N{GRINNING FACE}" + "x" * 249), revoke(7, "t1"))
    assert list(await logs().after(0, limit=10)) == kept
    assert await log.after(kept[-1].id, limit=10) == []


async def test_ids_grow_and_pages_follow_them(log):
    kept = await append(log, *(revoke(number) for number in range(1, 8)))
    ids = [each.id for each in kept]
    assert sorted(set(ids)) == ids
    assert ids[0] > 0
    assert list(await log.after(ids[1], limit=3)) == kept[2:5]


async def test_what_has_expired_goes_with_the_next_one_and_its_id_never_comes_back(log):
    (old,) = await append(log, revoke(1))
    (one,) = await append(log, revoke(2, at_us=NOW_US + HOUR_US))
    assert list(await log.after(0, limit=10)) == [one]
    (two,) = await append(log, revoke(3, at_us=NOW_US + 3 * HOUR_US))
    assert list(await log.after(0, limit=10)) == [two]
    assert old.id < one.id < two.id


async def test_one_that_a_later_one_includes_goes_and_no_other(log):
    first = await append(log, revoke(7), revoke(7, "t1"), revoke(None, "t1"), revoke(None, "T1"), revoke(8))
    (later,) = await append(log, revoke(7, at_us=NOW_US + 1))
    (shorter,) = await append(log, revoke(7, at_us=NOW_US + 2, lasts_us=5))
    assert list(await log.after(0, limit=10)) == [*first[1:], later, shorter]


async def test_as_many_are_kept_as_may_be_and_none_gives_way(log):
    kept = await append(log, revoke(1), revoke(2), limit=2)
    with pytest.raises(RevocationsFull, match="2 revocations are kept"):
        await log.append(revoke(3), limit=2)
    assert list(await log.after(0, limit=10)) == kept
    (again,) = await append(log, revoke(1, at_us=NOW_US + 1), limit=2)
    assert list(await log.after(0, limit=10)) == [kept[1], again]


async def test_two_at_once_are_both_kept(logs):
    one, other = logs(), logs()
    await asyncio.gather(one.append(revoke(1), limit=9), other.append(revoke(2), limit=9))
    assert {each.user_id for each in await one.after(0, limit=10)} == {1, 2}
