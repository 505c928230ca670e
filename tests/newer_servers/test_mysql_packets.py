import pytest

from tests.integration import test_sql_mysql_packets
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_sql_mysql_packets))
