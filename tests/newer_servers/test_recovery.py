"""Circuits close again when MySQL and RabbitMQ 4 are back."""

import pytest

from tests.e2e import test_recovery
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_recovery))
