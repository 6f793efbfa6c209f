"""Flickr8k with a small BERT, for the study of the fusion model."""
