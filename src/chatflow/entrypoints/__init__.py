"""Settings, the container, and one module per role: the only place that reads the environment."""
