"""`open-clip-fff calibrate`, from a clone: see open_clip_fff/commands/calibrate.py, or --help."""

from open_clip_fff.commands.calibrate import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/calibrate.py"))
