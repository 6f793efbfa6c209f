"""What goes wrong with borrowed machines and data from strangers, done on purpose: the rows of faults.py."""
