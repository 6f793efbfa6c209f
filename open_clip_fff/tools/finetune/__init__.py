"""Fine-tuning of the models that FFF uses beside CLIP: discriminators and captioners."""
