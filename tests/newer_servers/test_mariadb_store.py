"""The store's promises on MariaDB 11, which isolates transactions otherwise by default (innodb_snapshot_isolation)."""

import pytest

from tests.contract import test_store
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_store))


@pytest.fixture(scope="session")
def maria_server(mariadb_11_server):
    return mariadb_11_server
