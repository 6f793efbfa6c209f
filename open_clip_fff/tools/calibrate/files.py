"""What calibration leaves behind, by name."""

FILES = ("thresholds.csv", "flags.txt", "cosines.png", "rates.png")
FALSE_NEGATIVES = "false-negatives.png"  # where classes are known
