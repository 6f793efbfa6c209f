"""`open-clip-fff score`, from a clone: see open_clip_fff/commands/score.py, or --help."""

from open_clip_fff.commands.score import main

if __name__ == "__main__":
    raise SystemExit(main(prog="eval/zero_shot.py"))
