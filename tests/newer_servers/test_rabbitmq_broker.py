"""The broker's promises on RabbitMQ 4."""

import pytest

from tests.contract import test_broker
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_broker))
