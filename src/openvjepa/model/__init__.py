"""Encoder, predictor, probes and objectives, with the names of Meta's files for their parameters."""
