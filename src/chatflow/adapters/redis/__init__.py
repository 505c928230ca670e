"""The shared cache, its leases and invalidations, and the fleet, on Redis 6.2+: one, under Sentinel, or a cluster."""
