"""Models side by side: what open-clip-fff score scored, as one table with intervals, plots and a page."""
