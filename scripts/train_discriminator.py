"""`open-clip-fff train-discriminator`, from a clone: see open_clip_fff/commands/train_discriminator.py, or --help."""

from open_clip_fff.commands.train_discriminator import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/train_discriminator.py"))
