"""Models: one that takes K captions, and the frozen ones that mine."""
