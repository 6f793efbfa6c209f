"""Models side by side: what eval/zero_shot.py scored, as one table with intervals, plots and a page."""
