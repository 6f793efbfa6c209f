"""What a person sees of a run: the plan and the data before it, the rates during it, the recall after an epoch."""
