"""What commands of several rooms do, once their flags are read."""
