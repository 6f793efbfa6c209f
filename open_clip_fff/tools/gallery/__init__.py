"""What the miners find on one's own data, to look at: pairs in doubt first."""
