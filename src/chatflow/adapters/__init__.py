"""One package or module per technology, each implementing ports and translating its driver's errors."""
