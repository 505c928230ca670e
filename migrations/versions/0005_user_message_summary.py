"""Messages per user."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.BigInteger().with_variant(mysql.DATETIME(fsp=6), "mysql")
INNODB = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def unicode_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "user_message_summary",
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("username", unicode_text(64), nullable=False),
        sa.Column("total_messages", sa.BigInteger, nullable=False),
        sa.Column("last_seen", MOMENT, nullable=False),
        **INNODB,
    )


def downgrade() -> None:
    op.drop_table("user_message_summary")
