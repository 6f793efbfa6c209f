"""Faults of machines and of untrusted data, caused on purpose: the rows of faults.py."""
