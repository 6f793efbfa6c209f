"""Thresholds for the user's own data and feature extractor."""
