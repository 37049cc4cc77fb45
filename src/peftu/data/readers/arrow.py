"""Arrow and Feather files, and streams of Arrow batches."""

from typing import TYPE_CHECKING

import polars as pl

from peftu.data.readers.source import Source
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.file import File

STREAM = b"\xff\xff\xff\xff"


class Arrow:
    """Reads whole files; Feather's first version is not read."""

    name = "arrow"
    title = "Arrow"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it begins as Arrow files or streams do."""
        return file.begin.startswith((b"ARROW1", STREAM))

    def open(self, file: "File") -> Source:
        """Returns its rows; values keep their types."""
        read = pl.read_ipc_stream if file.begin.startswith(STREAM) else pl.read_ipc
        try:
            with file.data.open("rb") as stream:
                frame = read(stream)
        except (pl.exceptions.PolarsError, OSError):
            raise PeftuError(f"{file.path}: is truncated or no Arrow file — get it again") from None
        return Source.of_frame(file.path, "ARROW", frame, named=True)


READER = Arrow()
