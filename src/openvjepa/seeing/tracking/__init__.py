"""Label propagation and its metrics."""
