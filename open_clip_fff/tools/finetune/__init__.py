"""Fine-tuning of what FFF trains with, not by: discriminators and captioners."""
