"""Models: towers that take K captions, the models that mine, and the fusion model."""
