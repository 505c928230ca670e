"""Messages per user and room."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MOMENT = sa.BigInteger().with_variant(mysql.DATETIME(fsp=6), "mysql")
INNODB = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "user_room_summary",
        sa.Column("user_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("room_id", ascii_text(64), nullable=False),
        sa.Column("message_count", sa.BigInteger, nullable=False),
        sa.Column("last_activity", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "room_id"),
        sqlite_with_rowid=False,
        **INNODB,
    )


def downgrade() -> None:
    op.drop_table("user_room_summary")
