"""`open-clip-fff caption`, from a clone: see open_clip_fff/commands/caption.py, or --help."""

from open_clip_fff.commands.caption import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/caption.py"))
