"""The only folder that knows `open_clip_train`: its seams in 3.3, and the fixes for what breaks there."""
