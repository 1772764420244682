"""Prediction error over time: how well a video fits what the model expects."""
