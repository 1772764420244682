"""Copies of videos and images that are quick to read from, and the writer of MP4 files."""
