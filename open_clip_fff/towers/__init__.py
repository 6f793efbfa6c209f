"""Models: one that takes K captions, the frozen one that mines, and how a model is written down."""
