"""Cache, leases, commit feed and fleet on Redis 6.2 or later: one server, under Sentinel, or a cluster."""
