"""MySQL's optimizer takes the index that MariaDB's takes, but for what is left out."""

import pytest

from tests.integration import test_sql_plans
from tests.newer_servers.again import taken_from

pytestmark = pytest.mark.long
LEFT_OUT = (
    # MySQL reads the index by time instead, one entry for each message of the window.
    "test_mariadb_counts_active_users_of_a_wide_window_by_leaping_from_user_to_user",
    # MySQL folds the derived tables, so its plan has other lines.
    "test_mariadb_sums_active_users_after_one_look_at_the_newest_time",
)
globals().update(taken_from(test_sql_plans, but=LEFT_OUT))
