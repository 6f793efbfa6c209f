"""docs/flags.md, made from the settings' fields: `python -m open_clip_fff.config.flags_page > docs/flags.md`."""

import argparse
from collections.abc import Iterator
from typing import Any

from open_clip_fff.config.fields import Flag, as_flag
from open_clip_fff.config.flags import FLAG_GROUPS, default_of, flags_of, takes
from open_clip_fff.config.methods import TITLES
from open_clip_fff.config.topics import table_cell

HEAD = """# Flags

<!-- Written by `python -m open_clip_fff.config.flags_page > docs/flags.md`. -->

Every flag of OpenCLIP is taken as it was; these are ours, and where none is given training is OpenCLIP's own. A flag
that is given wins over what `--method` stands for, and that over the default.

`open-clip-fff train --help` prints OpenCLIP's flags and these, `--help-fff` these alone. Commands that take training's
flags (embed, analyze, calibrate, gallery, ...) take them among their own. Of a flag that both have, such as
`--workers`, the command's is meant, and after `--` that of training.

| method | |
|---|---|
"""


def page() -> str:
    """The whole page, in markdown."""
    methods = "".join(f"| `{name}` | {table_cell(title)} |\n" for name, title in TITLES.items())
    return HEAD + methods + "".join(f"\n{section}" for section in _sections())


def _sections() -> Iterator[str]:
    for group, title in FLAG_GROUPS.items():
        rows = "".join(f"| {' | '.join(map(table_cell, _row(flag, hint)))} |\n" for flag, hint in flags_of(group))
        yield f"## {title[0].upper()}{title[1:]}\n\n| flag | default | meaning |\n|---|---|---|\n{rows}"


def _row(flag: Flag, hint: Any) -> tuple[str, str, str]:
    """The flag with its values, its default and the methods', and its help with the accepted range."""
    how = takes(flag, hint)
    if how.get("action") is argparse.BooleanOptionalAction:
        given = f"`{as_flag(flag.name)}`, `{as_flag('no_' + flag.name)}`"
    else:
        given = f"`{as_flag(flag.name)} {'|'.join(how.get('choices', ())) or how['metavar']}`"
    accepted = "" if flag.check is None else flag.check[1].partition(": ")[2].removeprefix("it is ")
    return given, default_of(flag), flag.help + (accepted and f" ({accepted})")


if __name__ == "__main__":
    print(page(), end="")
