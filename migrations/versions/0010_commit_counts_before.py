"""The messages that were committed before processors counted, as one row of no processor."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "INSERT INTO commit_counts (processor, partition_id, partitions, committed, last_batch) "
        "SELECT '', -1, 0, total, 0 FROM (SELECT SUM(last_seq) AS total FROM room_heads) AS heads WHERE total > 0"
    )


def downgrade() -> None:
    op.execute("DELETE FROM commit_counts")
