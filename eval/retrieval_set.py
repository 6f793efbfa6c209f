"""`open-clip-fff retrieval-set`, from a clone: see open_clip_fff/commands/retrieval_set.py, or --help."""

from open_clip_fff.commands.retrieval_set import main

if __name__ == "__main__":
    raise SystemExit(main(prog="eval/retrieval_set.py"))
