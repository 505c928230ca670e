"""From a sender to the broker: publish, confirm, acknowledge."""
