"""Segments of long videos: from the answers over time, and how well they agree with labeled ones."""
