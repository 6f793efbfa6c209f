"""`open-clip-fff train-captioner`, from a clone: see open_clip_fff/commands/train_captioner.py, or --help."""

from open_clip_fff.commands.train_captioner import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/train_captioner.py"))
