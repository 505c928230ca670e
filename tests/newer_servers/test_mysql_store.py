"""The store's promises on MySQL."""

import pytest

from tests.contract import test_store
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
globals().update(taken_from(test_store))
