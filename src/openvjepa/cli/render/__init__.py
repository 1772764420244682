"""What each command shows of its result."""
