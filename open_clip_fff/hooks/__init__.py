"""What may happen to a batch between the loader and the towers; each hook is one file, listed in registry.py."""
