"""Losses: from features and an assignment to a scalar and its gradients."""
