"""`open-clip-fff probe`, from a clone: see open_clip_fff/commands/probe.py, or --help."""

from open_clip_fff.commands.probe import main

if __name__ == "__main__":
    raise SystemExit(main(prog="eval/linear_probe.py"))
