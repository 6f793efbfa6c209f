"""`open-clip-fff compare`, from a clone: see open_clip_fff/commands/compare.py, or --help."""

from open_clip_fff.commands.compare import main

if __name__ == "__main__":
    raise SystemExit(main(prog="eval/compare.py"))
