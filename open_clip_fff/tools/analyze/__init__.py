"""The analysis figures of FFF's paper for the user's captions, raw against generated."""

PAGE = "analysis.html"
ALL = 10_000  # captions of an image: more than training may take
