"""A file for each command: its flags, and nothing that they do not need; what is heavy is imported afterwards."""
