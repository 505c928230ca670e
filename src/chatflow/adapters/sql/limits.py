"""What a database may use and how long it may take, unless it is told otherwise; the defaults of the settings too."""

WRITER_POOL, READER_POOL = 10, 20
"""Connections of a database server."""
READ_QUEUE_LIMIT = 200
"""Reads that may wait for a connection."""
READ_DEADLINE_S, WRITE_DEADLINE_S = 5.0, 10.0
