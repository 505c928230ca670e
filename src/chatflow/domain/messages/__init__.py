"""The rules of messages, rooms and timestamps."""
