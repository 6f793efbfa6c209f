"""The discriminator (MAFA's con-D, arXiv 2312.06112): P(match) of an image and a caption of another image."""
