"""What the analysis is called."""

PAGE = "analysis.html"
