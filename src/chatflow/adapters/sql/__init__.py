"""The store in SQL: SQLite for the embedded process, MySQL 8 or MariaDB 10.6+ for a fleet.

Every transaction is a plain synchronous function that takes a SQLAlchemy connection. A ``Database`` decides where it
runs: SQLite in worker threads, MySQL through SQLAlchemy's greenlet bridge. Nothing else differs between the two but a
handful of statements, which stand side by side in ``append.py`` and ``packed.py``.
"""
