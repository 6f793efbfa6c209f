"""Thresholds of Eq. 1 for the user's data and feature extractor."""

TABLE, FLAGS, COSINES, RATES = FILES = ("thresholds.csv", "flags.txt", "cosines.png", "rates.png")
FALSE_NEGATIVES = "false-negatives.png"  # if classes are known
