"""Downstream tasks of a fusion model, fine-tuned and scored: questions about images (VQA), and NLVR2."""
