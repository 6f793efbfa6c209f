"""HTML pages that need nothing but themselves: one base, one style, also of their figures."""
