"""Keep one fault from becoming many: breaker, backoff, recovery, coalescing, and ending tasks."""
