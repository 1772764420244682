"""Fitting an encoder and a classifier to labeled videos."""
