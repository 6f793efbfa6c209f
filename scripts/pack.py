"""`open-clip-fff pack`, from a clone: see open_clip_fff/commands/pack.py, or --help."""

from open_clip_fff.commands.pack import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/pack.py"))
