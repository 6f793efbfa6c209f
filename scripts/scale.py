"""`open-clip-fff scale`, from a clone: see open_clip_fff/commands/scale.py, or --help."""

from open_clip_fff.commands.scale import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/scale.py"))
