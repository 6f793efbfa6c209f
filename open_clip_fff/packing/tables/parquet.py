"""parquet."""

from collections.abc import Iterator, Sequence

from open_clip_fff.packing.tables.reader import Cells, Reader
from open_clip_fff.packing.tables.separated import PIECE


class ParquetReader(Reader):
    """Cells as what they are."""

    form = "parquet"

    def __init__(self, file: str) -> None:
        import pyarrow.parquet as pq

        super().__init__(file)
        self.columns = list(pq.read_schema(file).names)

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as table:
            for piece in table.iter_batches(PIECE, columns=list(columns)):
                yield from piece.to_pylist()

    def about(self) -> int:
        import pyarrow.parquet as pq

        return pq.read_metadata(self.file).num_rows
