"""Rendered videos with known labels."""
