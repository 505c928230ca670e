"""Who may come in: which hosts and origins are ours, and whose address stands behind a proxy."""
