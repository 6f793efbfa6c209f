"""A model outside of training: its checkpoints, its description, and OpenCLIP's hub folder."""
