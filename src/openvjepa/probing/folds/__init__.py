"""Cross-validation of probes: features encoded once, every video tested by probes that have not seen it."""
