"""Settings of the other commands."""
