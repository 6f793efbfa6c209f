"""A folder or file per command that makes or looks at data, and what they share; none knows the training loop."""
