"""What can be known to fail is refused here, before anything is written or trained."""
