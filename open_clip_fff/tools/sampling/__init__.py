"""A sample of a data set for the programs that look at it: which samples, and what feature extractors make of them."""
