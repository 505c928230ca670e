"""Millions of valid messages, generated inside MariaDB: no row crosses the wire, so ten million take minutes.

Times run evenly over ``DAYS`` in every room, so rows arrive in slices of time, as the pages of a database that has
grown would hold them. Rooms are sized like 1, 1/2, 1/3 ..., and low user ids write most. Secondary indexes are built
afterwards, sorted. Summaries are counted over those, which a user's one name allows; ``chatflow audit`` recounts them.
"""

from chatflow.adapters.sql.schema import messages
from tests.harness.maria import MariaServer

DAYS = 30
ROOMS = 20
USERS = 5_000
BEGIN = "2026-10-25 00:00:00"
END_US = 1_795_478_400_000_000
"""``DAYS`` after ``BEGIN``: 2026-11-24."""
SLICE = 50_000
AT_LEISURE_S = 1_800.0

_INSERT = """
INSERT INTO messages
SELECT room, seq, UNHEX(CONCAT(LPAD(HEX(at_us DIV 1000), 12, '0'), '7', LEFT(hash, 3), '8', SUBSTR(hash, 4, 15))),
       user, CONCAT('user', user), 'TEXT', RPAD('', 40 + seq * 37 % 160, 'the quick brown fox jumps '),
       TIMESTAMPADD(MICROSECOND, at_us - 40000, '1970-01-01'), TIMESTAMPADD(MICROSECOND, at_us, '1970-01-01'),
       'gateway-1', '127.0.0.1'
FROM (
    SELECT seq, '{room}' AS room, MD5(CONCAT('{room}:', seq)) AS hash,
           1 + FLOOR({users} * POW(CRC32(CONCAT('{room}:', seq)) / 4294967296, 2)) AS user,
           {begin_us} + seq * {span_us} DIV {rows} - CRC32(CONCAT(seq, ':{room}')) % 1000 AS at_us
    FROM seq_{first}_to_{last}
) AS made;
"""


SUMS = (
    """INSERT INTO room_message_summary
    SELECT room_id, COUNT(*), COUNT(DISTINCT user_id), MAX(accepted_at) FROM messages GROUP BY room_id""",
    """INSERT INTO user_room_summary
    SELECT user_id, room_id, COUNT(*), MAX(accepted_at) FROM messages GROUP BY user_id, room_id""",
    """INSERT INTO user_message_summary
    SELECT user_id, CONCAT('user', user_id), COUNT(*), MAX(accepted_at) FROM messages GROUP BY user_id""",
)


def room_sizes(rows: int) -> dict[str, int]:
    """How many messages each room gets; the largest first, ``rows`` in all."""
    weights = [1 / number for number in range(1, ROOMS + 1)]
    sizes = {str(number): int(rows * weight / sum(weights)) for number, weight in enumerate(weights, 1)}
    sizes["1"] += rows - sum(sizes.values())
    return sizes


def fill(maria: MariaServer, database: str, rows: int) -> None:
    """Fill the messages, heads and summaries of a migrated, empty database."""
    names = [index.name for index in messages.indexes]
    maria.execute(f"ALTER TABLE messages {', '.join(f'DROP INDEX {name}' for name in names)}", database)
    sizes = room_sizes(rows)
    slices = -(-rows // SLICE)
    for number in range(slices):
        inserts = [
            _insert(room, size, size * number // slices + 1, size * (number + 1) // slices)
            for room, size in sizes.items()
        ]
        maria.execute(f"SET unique_checks = 0; BEGIN; {' '.join(inserts)} COMMIT", database)
    columns = {index.name: ", ".join(column.name for column in index.columns) for index in messages.indexes}
    added = ", ".join(f"ADD INDEX {name} ({listed})" for name, listed in columns.items())
    maria.execute(f"ALTER TABLE messages {added}; ANALYZE TABLE messages", database, timeout_s=AT_LEISURE_S)
    maria.execute("; ".join(SUMS), database, timeout_s=AT_LEISURE_S)
    heads = ", ".join(f"('{room}', {size})" for room, size in sizes.items() if size)
    maria.execute(f"INSERT INTO room_heads VALUES {heads}", database)  # noqa: S608 - made of numbers


def _insert(room: str, rows: int, first: int, last: int) -> str:
    if last < first:
        return ""
    span_us = DAYS * 86_400 * 1_000_000
    return _INSERT.format(
        room=room, rows=rows, first=first, last=last, users=USERS, span_us=span_us, begin_us=END_US - span_us
    )
