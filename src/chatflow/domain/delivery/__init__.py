"""From the processors to the listeners of a room: in order, without a gap."""
