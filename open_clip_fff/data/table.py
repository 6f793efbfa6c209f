"""SampleCaptions a CSV as it stands."""

from typing import Any, TextIO

from open_clip_fff.errors import UsageError


def read_table(
    path: str, separator: str, captions: tuple[str, ...], content: TextIO | None = None, **options: Any
) -> Any:
    """A CSV as pandas reads it for OpenCLIP, but its caption columns as the text that stands there.

    Pandas would make 7 of a caption 007, and 2010.0 of 2010 where another row is empty.

    Args:
        captions: names of the caption columns; those that are not there are ignored.
        content: the file, where it is open already.
        options: more of `pandas.read_csv`.

    Raises:
        UsageError: if the file cannot be read, or its header is too short.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            path if content is None else content, sep=separator, dtype=dict.fromkeys(captions, str), **options
        )
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, ValueError, ImportError) as error:  # the last for what nothing installed unpacks
        raise UsageError(f"{path} cannot be read as a table ({error})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas then takes the first column for names, and shifts the rest
        raise UsageError(f"{path} has more cells per row than names in its header")
    return table
