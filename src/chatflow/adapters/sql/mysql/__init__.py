"""MySQL 8 and MariaDB through asyncmy."""
