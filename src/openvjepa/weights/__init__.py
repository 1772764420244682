"""Models on disk: published checkpoints, run folders, and the formats of others."""
