import pytest

from tests.integration import test_sql_plans
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
LEFT_OUT = (
    # MariaDB 11 guesses other numbers, from which the reader concludes that looking up by time is cheaper.
    "test_mariadb_walks_a_room_to_a_window_nearby_and_finds_the_same_page",
)
globals().update(taken_from(test_sql_plans, but=LEFT_OUT))


@pytest.fixture(scope="session")
def maria_server(mariadb_11_server):
    return mariadb_11_server
