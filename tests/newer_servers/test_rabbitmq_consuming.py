import pytest

from tests.integration import test_rabbitmq_consuming
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_rabbitmq_consuming))
