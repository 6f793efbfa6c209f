"""The parts of scripts/gpu_check.py: what each measures, how they are run, and the page of their figures."""
