"""What the analysis is called, and how much it takes: for its flags, which import nothing else of it."""

PAGE = "analysis.html"
ALL = 10_000  # captions of an image: more than training may take
