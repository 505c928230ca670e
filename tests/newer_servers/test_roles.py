"""A fleet over MySQL and RabbitMQ 4."""

import pytest

from tests.e2e import test_roles
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_roles))
