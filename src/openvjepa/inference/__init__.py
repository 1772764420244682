"""Trained classifiers on new videos: one or several, whole videos or windows over time."""
