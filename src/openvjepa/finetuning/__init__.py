"""Fitting an encoder and a classifier to labelled videos."""
