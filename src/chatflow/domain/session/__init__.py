"""One client's connection: what it may do, in which order, and how much of it at once."""
