"""Hooks on a batch between the loader and the towers; `registry.py` lists them."""
