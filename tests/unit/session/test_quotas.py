import pytest

from chatflow.domain.session.errors import Denied
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.domain.session.quotas import DAY_S, HOUR_S, Quotas
from chatflow.ports.broker import size_of
from tests.harness.clock import FakeClock
from tests.unit.fakes import message

ONE = size_of(message(1))


def quotas(**settings: int) -> Quotas:
    return Quotas(FakeClock(), SessionMetrics(), **settings)


def test_by_default_nothing_written_is_counted() -> None:
    assert not quotas().are_written
    assert quotas(rooms_per_hour=1).are_written
    assert quotas(bytes_per_day=1).are_written


def test_a_user_writes_to_so_many_new_rooms_an_hour_and_to_those_as_often_as_it_likes() -> None:
    each = quotas(rooms_per_hour=2)
    for room in ("a", "b", "a", "b"):
        each.write(7, message(1, room))
    with pytest.raises(Denied, match="at most 2 new rooms per hour"):
        each.write(7, message(1, "c"))
    each.write(7, message(1, "a"))
    each.write(8, message(1, "c"))
    each.clock.advance(HOUR_S)
    each.write(7, message(1, "c"))
    assert each.metrics.quota_refused == 1


def test_a_user_writes_so_many_bytes_a_day() -> None:
    each = quotas(bytes_per_day=2 * ONE)
    each.write(7, message(1))
    each.write(7, message(2))
    with pytest.raises(Denied, match=f"at most {2 * ONE} bytes of messages per day"):
        each.write(7, message(3))
    each.write(8, message(3))
    each.clock.advance(DAY_S)
    each.write(7, message(3))


def test_an_address_has_so_many_connections_and_loopback_as_many_as_it_likes() -> None:
    each = quotas(connections_per_address=1)
    for address in ("192.0.2.1", "127.0.0.1"):
        assert each.admits(address)
        each.connected(address)
    assert not each.admits("192.0.2.1")
    assert each.admits("192.0.2.2")
    assert each.admits("127.0.0.1")
    assert each.metrics.connections_refused == 1
    each.disconnected("192.0.2.1")
    assert each.admits("192.0.2.1")


def test_a_user_has_so_many_sessions() -> None:
    each = quotas(sessions_per_user=2)
    each.check_sessions(1)
    with pytest.raises(Denied, match="at most 2 sessions per user"):
        each.check_sessions(2)
    quotas(sessions_per_user=0).check_sessions(10**6)
