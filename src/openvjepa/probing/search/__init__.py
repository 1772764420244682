"""Which classifier is the best, and how many labels are enough."""
