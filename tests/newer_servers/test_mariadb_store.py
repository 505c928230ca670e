"""The store's promises on MariaDB 11, whose transactions are isolated otherwise by default."""

import pytest

from tests.contract import test_store
from tests.contract.store_cases import MARIADB, maria_backend
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_store))


@pytest.fixture(scope="session")
def maria_server(mariadb_11_server):
    return mariadb_11_server


@pytest.fixture(params=MARIADB)
def make_backend(request, maria_server, maria_schemas):
    maria_server.make_ready()
    return lambda _: maria_backend(maria_schemas.emptied(), **MARIADB[request.param])
