"""Frozen features: which clips of a file a model is shown, encoding them once, keeping them on disk."""
