"""From the broker to the store: batch, write behind, recover, replay."""
