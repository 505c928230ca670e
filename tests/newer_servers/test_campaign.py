"""Whatever breaks, nothing is lost on MySQL and RabbitMQ 4 either."""

import pytest

from tests.fault import test_campaign
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_campaign))


@pytest.fixture(scope="module")
def campaign_servers(rabbit_server, maria_server):
    for server in (rabbit_server, maria_server):
        server.stop()  # the campaign starts them
    return rabbit_server, maria_server
