"""Self-contained HTML pages: one base, one style, also for their figures."""
