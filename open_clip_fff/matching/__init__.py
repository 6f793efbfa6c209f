"""Who decides whether an image and a caption that are no pair belong together after all: MAFA's con-D."""
