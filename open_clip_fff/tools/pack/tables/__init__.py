"""Rows of files: a reader for each form, and a table of several files."""
