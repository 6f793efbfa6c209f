"""The pairs that mining finds in a sample, as an HTML page for choosing thresholds."""
