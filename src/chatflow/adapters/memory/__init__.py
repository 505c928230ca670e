"""In-process adapters with the semantics of the real ones: acks, redelivery, limits, versions."""
