"""The index that is a user's history, newest last."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_messages_user_accepted", "messages", ["user_id", "accepted_at"])


def downgrade() -> None:
    op.drop_index("ix_messages_user_accepted", "messages")
