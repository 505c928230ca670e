"""chatflow: durable, room-ordered chat. An acknowledged message is never lost, doubled or reordered."""

__version__ = "0.1.0"
