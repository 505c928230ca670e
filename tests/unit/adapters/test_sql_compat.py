"""What chatflow does when asyncmy is not as its ``compat`` module expects."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.adapters.sql import compat
from chatflow.adapters.sql.opening import open_database

URL = "mysql+asyncmy://user:password@host/name"


def test_this_asyncmy_is_as_expected(caplog):
    assert compat.packet_driver() is compat.PACKETS
    assert compat.escape_string is not compat.escape_with_table
    assert caplog.records == []


@pytest.mark.parametrize("name", compat.CHECKS)
def test_a_part_that_is_gone_is_told_once_and_done_without(monkeypatch, caplog, name):
    monkeypatch.setattr(compat, "CHECKS", {**compat.CHECKS, name: lambda: False})
    assert compat.packet_driver() is compat.SINGLY
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert name in caplog.text


async def test_the_fallback_can_be_forced(caplog):
    database = open_database(URL, driver_fallback=True)
    assert len(caplog.records) == 1
    await database.close()


@given(st.text())
def test_the_driver_escapes_as_our_table_does(text):
    assert compat.escape_string(text) == compat.escape_with_table(text)


@pytest.mark.parametrize("broken", [lambda text: text, None], ids=["lets quotes through", "is gone"])
def test_a_driver_that_escapes_in_another_way_is_not_used(monkeypatch, broken):
    monkeypatch.setattr(compat.converters, "escape_string", broken)
    assert compat._chosen_escape() is compat.escape_with_table
