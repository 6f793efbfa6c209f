"""What the captions of a data set are like, raw ones against generated ones: the analysis figures of FFF's paper."""
