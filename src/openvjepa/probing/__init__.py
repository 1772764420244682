"""Classifiers on frozen features: attentive, linear, nearest neighbors, and how few labels are enough."""
