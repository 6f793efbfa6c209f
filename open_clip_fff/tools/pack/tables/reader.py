"""What every form of a table is read by."""

from collections.abc import Iterator, Sequence

Cells = dict[str, object]


class Reader:
    """The rows of one file.

    Args:
        file: its path.

    Attributes:
        form: what it is read as, for error lines.
        fixed: whether all rows have all columns; else a row without one has None there.
        columns: their names.
        taken: for whose layout of data it was taken, for people; empty where the form has only one.
        image: the column of images that the layout has; None where it is any.
        captions: the columns of captions that it has.
        held: those of them whose cells may be images themselves.
        skipped: what is said about rows that cannot be read, as they are met.

    Raises:
        OSError, ValueError: from any method, if the file cannot be read.
    """

    form = ""
    fixed = True

    def __init__(self, file: str) -> None:
        self.file = file
        self.columns: Sequence[str] = ()
        self.taken = ""
        self.image: str | None = None
        self.captions: tuple[str, ...] = ()
        self.held: frozenset[str] = frozenset()
        self.skipped: list[str] = []

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """All rows in order, as the cells of some columns; called again, it starts anew."""
        raise NotImplementedError

    def unused(self) -> list[str]:
        """Lines on what is there and in no column, once all rows were read."""
        return []

    def about(self) -> int:
        """How many rows there are, more or less; 0 where that is not known."""
        return 0
