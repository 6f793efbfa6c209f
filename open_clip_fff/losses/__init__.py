"""Features and assignment to numbers and gradients."""
