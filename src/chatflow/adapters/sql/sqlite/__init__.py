"""SQLite on threads of its own."""
