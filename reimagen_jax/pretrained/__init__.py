"""Weights in files: ours, and readers of published ones."""
