"""Measurements of what a machine can do."""
