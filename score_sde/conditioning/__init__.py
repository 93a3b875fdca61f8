"""Conditions of a network: labels, vectors and images."""
