import pytest

from tests.integration import test_sql_mysql
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_sql_mysql))


@pytest.fixture(scope="session")
def maria_server(mariadb_11_server):
    return mariadb_11_server
