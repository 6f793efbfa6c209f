"""Checkpoints beyond OpenCLIP's: what they hold, when they are written, and resuming from one."""
