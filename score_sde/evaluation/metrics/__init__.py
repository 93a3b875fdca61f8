"""Distances between sets of samples and data."""
