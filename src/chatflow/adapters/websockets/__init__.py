"""The gateway's wire: ``/chat/{room}``, ``/feed/{room}`` and ``/ws`` on the `websockets` library."""
