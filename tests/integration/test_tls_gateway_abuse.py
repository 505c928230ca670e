"""Over TLS once more: what clients do to a gateway's memory and time, which the event loop's buffers might hide."""

import pytest

from tests.integration import test_gateway_abuse
from tests.integration.gateway_harness import encrypted
from tests.newer_servers.again import taken_from

__all__ = ["encrypted"]

pytestmark = [pytest.mark.usefixtures("encrypted"), pytest.mark.long]

globals().update(taken_from(test_gateway_abuse))
