"""From what a token says to a principal, and a memory of recent tokens."""
