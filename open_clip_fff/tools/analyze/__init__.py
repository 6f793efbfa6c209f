"""The analysis figures of FFF's paper for the user's captions, raw against generated."""

PAGE = "analysis.html"
