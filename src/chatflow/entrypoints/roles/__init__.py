"""The roles of a fleet, and what their processes have in common."""
