"""Rows on MariaDB: what they may hold, how many fit a statement, what is rejected, and what nobody gets to read."""

import asyncio
import subprocess
import traceback

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import make_url

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.append import Tables, append_batch
from chatflow.adapters.sql.commit_counts import CommitCounts
from chatflow.adapters.sql.dlq import SqlDeadLetters
from chatflow.adapters.sql.mysql import multirow
from chatflow.adapters.sql.mysql.url import driver_arguments
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.persister import Persister
from chatflow.ports.errors import RowRejected, StoreError, StoreUnavailable
from tests.conftest import need
from tests.contract.store_cases import NOW_US, message
from tests.contract.store_maria import fresh_url, maria_schemas, raw_maria
from tests.contract.test_store import POISON
from tests.harness import MariaServer
from tests.integration.mysql_cases import assert_sound, process

__all__ = ["fresh_url", "maria_schemas", "raw_maria"]

SECRET = "the launch code is 0000"


@pytest.fixture(params=["binary", "text"])
def protocol(request, monkeypatch):
    """MariaDB understands what MySQL is sent, but for the alias of new rows, which its own dialect leaves out."""
    if request.param == "text":
        monkeypatch.setattr(multirow, "takes_rows_in_binary", lambda _: False)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
async def test_any_text_comes_back_as_it_was_sent(fresh_url, protocol, drawn):
    sent = [message("a", text=text, username=name[:64]) for text, name in drawn]
    async with process(fresh_url) as mine:
        stored = (await mine.store.append_batch(sent)).stored
        found = await SqlMessageReader(mine.database).locate([each.key for each in sent])
    assert [found[each.key] for each in sent] == list(stored)
    assert [each.message for each in stored] == sent


async def test_both_protocols_store_the_same(fresh_url, raw_maria, monkeypatch):
    batch = [message(f"r{number % 3}", number % 40 + 1, f"it's {number} %s \\ \0") for number in range(700)]
    async with process(fresh_url) as mine:
        await mine.store.append_batch(batch[:350])
        monkeypatch.setattr(multirow, "takes_rows_in_binary", lambda _: False)
        await mine.store.append_batch(batch[350:])
        found = await SqlMessageReader(mine.database).locate([each.key for each in batch])
    assert {key: each.message for key, each in found.items()} == {each.key: each for each in batch}
    await assert_sound(fresh_url, 700)


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
async def test_poison_is_rejected_by_either_protocol(fresh_url, protocol, fields):
    async with process(fresh_url) as mine:
        with pytest.raises(RowRejected):
            await mine.store.append_batch([message("a"), message(**fields), message("a")])
    await assert_sound(fresh_url, 0)


async def test_a_batch_larger_than_the_servers_packets_is_one_transaction(maria_server, fresh_url, protocol):
    limit = 64 * 1024
    before = maria_server.execute("SELECT @@global.max_allowed_packet")[0][0]
    maria_server.execute(f"SET GLOBAL max_allowed_packet = {limit}")
    try:
        async with process(fresh_url) as mine:
            batch = [message(f"room-{number}", number + 1, "\N{GRINNING FACE}" * 500) for number in range(1000)]
            await mine.store.append_batch(batch)
            await mine.store.append_batch([message("a", text="\N{GRINNING FACE}" * 4000)])
            poisoned = [*(message("a", text="x" * 1000) for _ in range(100)), message("a", text="x" * 4001)]
            with pytest.raises(RowRejected):
                await mine.store.append_batch(poisoned)
    finally:
        maria_server.execute(f"SET GLOBAL max_allowed_packet = {before}")
    await assert_sound(fresh_url, 1001)


class NobodyListens:
    def __init__(self):
        self.told = []

    async def publish_live(self, envelope):
        self.told += envelope.messages


async def test_poison_is_isolated_and_the_rest_of_its_batch_is_stored_in_order(fresh_url):
    batch = [message("a", number + 1) for number in range(50)]
    for place, fields in ((7, {"text": "x" * 4001}), (8, {"user": 0}), (31, {"username": "\ud800"})):
        batch[place] = message("a", **({"user": place + 1} | fields))
    live, metrics = NobodyListens(), PersistenceMetrics()
    async with process(fresh_url) as mine:
        persister = Persister(mine.store, live, metrics, lambda: 0.0, lambda: NOW_US)
        await persister.persist(0, batch)
        letters = await SqlDeadLetters(mine.database, lambda: NOW_US).list_dead(limit=10)
    good = [each for place, each in enumerate(batch) if place not in {7, 8, 31}]
    assert [each.message for each in live.told] == good
    assert [each.seq for each in live.told] == list(range(1, 48))
    assert [letter.message_id for letter in letters] == [batch[place].message_id for place in (7, 8, 31)]
    assert metrics.dead_lettered == 3
    await assert_sound(fresh_url, 47)


async def failing(mine, fault) -> BaseException:
    good = message("a", text=SECRET)
    if fault == "rejected":
        batch = [message("a", text=SECRET * 200)]
    elif fault == "rejected by type":
        batch = [message("a", text=[SECRET])]
    elif fault == "rejected by a check":
        batch = [message("a", 0, SECRET)]
    else:
        await mine.store.append_batch([good])
        batch = [good]
    with pytest.raises(StoreError) as raised:
        await mine.database.write(append_batch, batch, {}, Tables(True, CommitCounts()))
    return raised.value


@pytest.mark.parametrize("fault", ["rejected", "rejected by type", "rejected by a check", "stored"])
async def test_no_error_repeats_what_somebody_wrote(fresh_url, protocol, fault):
    async with process(fresh_url) as mine:
        error = await failing(mine, fault)
    told = "".join(traceback.format_exception(error))
    assert "mysql/append.py" in told
    assert SECRET not in told


# --- whom to trust


def certificate(directory, name: str) -> tuple[str, str]:
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            *subject,
            "-out",
            cert,
            "-keyout",
            key,
        ],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


async def test_a_server_is_trusted_only_with_a_certificate_that_verifies(maria_server, server_guard, tmp_path):
    from shutil import which

    need(which("openssl"), "no openssl found")
    (cert, key), (other, _) = certificate(tmp_path, "server"), certificate(tmp_path, "other")
    server = MariaServer(server_guard, options=[f"--ssl-cert={cert}", f"--ssl-key={key}"])
    server.make_ready()
    try:
        url = server.url(server.database())
        cipher = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"
        for said, encrypted in (("", False), (f"?ssl_ca={cert}", True)):
            async with process(url + said) as mine:
                found = await mine.database.read(lambda conn: conn.exec_driver_sql(cipher).scalar_one())
                assert bool(found) is encrypted
        for said in ("?ssl=true", f"?ssl_ca={other}"):
            async with process(url + said) as mine:
                with pytest.raises(StoreUnavailable, match="certificate"):
                    await mine.store.ping()
            with pytest.raises(StoreUnavailable, match="certificate"):
                await asyncio.to_thread(migrate.upgrade, url + said)
        applied = await asyncio.to_thread(migrate.upgrade, f"{url}?ssl_ca={cert}")
        assert applied[0] == "0001"
    finally:
        server.kill()


@pytest.mark.parametrize(
    "said", ["ssl=maybe", "ssl=false&ssl_ca=x", "ssl_ca=/nowhere.pem", "ssl=true&ssl=true", "ssl_check_hostname=si"]
)
def test_a_url_that_asks_for_tls_in_vain_is_refused(said):
    with pytest.raises(ValueError, match="database URL"):
        open_database(f"mysql+asyncmy://user:password@host/name?{said}")


def test_a_url_with_a_parameter_that_there_is_not_names_it():
    with pytest.raises(ValueError, match=r"database URL: no parameter 'ssl_mode', but ssl, .*charset"):
        driver_arguments("mysql+asyncmy://user:password@host/name?ssl_mode=REQUIRED")


def test_a_url_that_asks_for_tls_gets_a_context_that_verifies():
    import ssl

    url, arguments = driver_arguments("mysql+asyncmy://user:password@host/name?ssl=true&charset=utf8mb4")
    assert arguments["ssl"].verify_mode == ssl.CERT_REQUIRED
    assert arguments["ssl"].check_hostname
    assert arguments["local_infile"] is False
    assert url == make_url("mysql+asyncmy://user:password@host/name?charset=utf8mb4")
    assert "ssl" not in driver_arguments("mysql+asyncmy://host/name?ssl=false")[1]
