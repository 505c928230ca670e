"""What a message, a room and a time may be."""
