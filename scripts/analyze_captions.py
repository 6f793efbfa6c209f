"""`open-clip-fff analyze`, from a clone: see open_clip_fff/commands/analyze.py, or --help."""

from open_clip_fff.commands.analyze import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/analyze_captions.py"))
