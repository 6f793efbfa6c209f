"""Losses: features and an assignment to a number and gradients."""
