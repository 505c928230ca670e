"""Settings, object graph, roles and command line: the one layer that reads the environment."""
