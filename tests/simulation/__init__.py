"""The write and delivery path on one deterministic event loop in virtual time, under faults; see `world`."""
