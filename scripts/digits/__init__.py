"""What scripts/quickstart.py is made of; nothing here is part of the package."""
