"""Messages, clustered by room and sequence number."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.BigInteger().with_variant(mysql.DATETIME(fsp=6), "mysql")
INNODB = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def unicode_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def check(name: str, condition: str, dialect: str = "sqlite") -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=name).ddl_if(dialect=dialect)


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column("room_id", ascii_text(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("message_id", sa.LargeBinary(16).with_variant(mysql.BINARY(16), "mysql"), nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("username", unicode_text(64), nullable=False),
        sa.Column("message_type", ascii_text(16), nullable=False),
        sa.Column("content", unicode_text(4000), nullable=False),
        sa.Column("sent_at", MOMENT, nullable=False),
        sa.Column("accepted_at", MOMENT, nullable=False),
        sa.Column("server_id", unicode_text(64), nullable=False),
        sa.Column("client_ip", ascii_text(45), nullable=False),
        sa.PrimaryKeyConstraint("room_id", "seq"),
        sa.UniqueConstraint("message_id", name="uq_messages_message_id"),
        check("ck_messages_room_id", "length(room_id) BETWEEN 1 AND 64 AND room_id NOT GLOB '*[^A-Za-z0-9._-]*'"),
        sa.CheckConstraint("seq >= 1", name="ck_messages_seq"),
        check("ck_messages_message_id", "length(message_id) = 16"),
        sa.CheckConstraint("user_id BETWEEN 1 AND 9007199254740991", name="ck_messages_user_id"),
        check("ck_messages_username", "length(username) <= 64"),
        check("ck_messages_message_type", "length(message_type) <= 16"),
        check("ck_messages_content", "length(content) <= 4000"),
        check("ck_messages_sent_at", "sent_at BETWEEN -30610224000000000 AND 253402300799999999"),
        check("ck_messages_accepted_at", "accepted_at BETWEEN 0 AND 253402300799999999"),
        check("ck_messages_room_id", "room_id <> ''", "mysql"),
        check("ck_messages_accepted_at", "accepted_at >= '1970-01-01'", "mysql"),
        check("ck_messages_server_id", "length(server_id) <= 64"),
        check("ck_messages_client_ip", "length(client_ip) <= 45"),
        sqlite_with_rowid=False,
        **INNODB,
    )


def downgrade() -> None:
    op.drop_table("messages")
