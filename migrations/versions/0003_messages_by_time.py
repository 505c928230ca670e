"""The index that counts users and messages by time."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_messages_accepted_user", "messages", ["accepted_at", "user_id"])


def downgrade() -> None:
    op.drop_index("ix_messages_accepted_user", "messages")
