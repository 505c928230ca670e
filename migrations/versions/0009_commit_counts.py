"""What each processor has been told of its commits, by partition."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INNODB = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "commit_counts",
        sa.Column("processor", ascii_text(64), primary_key=True),
        sa.Column("partition_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("partitions", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("committed", sa.BigInteger, nullable=False),
        sa.Column("last_batch", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
        **INNODB,
    )


def downgrade() -> None:
    op.drop_table("commit_counts")
