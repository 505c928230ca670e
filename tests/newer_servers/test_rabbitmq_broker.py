"""The broker's promises on RabbitMQ 4."""

import pytest

from tests.contract import test_broker
from tests.contract.broker_harnesses import HARNESSES
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_broker))


@pytest.fixture(params=[name for name in HARNESSES if name != "memory"])
async def harness(request, rabbit_server):
    harness = await HARNESSES[request.param](request)
    yield harness
    await harness.aclose()
