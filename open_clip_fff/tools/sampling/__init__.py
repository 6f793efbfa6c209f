"""A random sample of a data set's images and captions, and their features: for analyze, calibrate and gallery."""
