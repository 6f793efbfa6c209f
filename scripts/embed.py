"""`open-clip-fff embed`, from a clone: see open_clip_fff/commands/embed.py, or --help."""

from open_clip_fff.commands.embed import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/embed.py"))
