"""Transformer blocks, attention kernels and position codes."""
