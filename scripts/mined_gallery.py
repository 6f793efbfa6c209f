"""`open-clip-fff gallery`, from a clone: see open_clip_fff/commands/gallery.py, or --help."""

from open_clip_fff.commands.gallery import main

if __name__ == "__main__":
    raise SystemExit(main(prog="scripts/mined_gallery.py"))
