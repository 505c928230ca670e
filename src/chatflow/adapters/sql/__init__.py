"""The store in SQL: SQLite for the embedded process, MySQL 8 or MariaDB 10.6+ for a fleet.

Every transaction is a plain synchronous function that takes a SQLAlchemy connection. A ``Database`` decides where it
runs: SQLite in worker threads, MySQL through SQLAlchemy's greenlet bridge. What else differs between
them are a few statements, in the packages ``mysql`` and ``sqlite``.
"""
