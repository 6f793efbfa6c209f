"""What scripts/bench_*.py share; nothing here is part of the package."""
