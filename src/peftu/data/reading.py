"""Reading publishers' files: every oddity becomes one line that names the file and the line."""

import csv
from collections.abc import Iterator
from pathlib import Path

from peftu.errors import PeftuError

LONGEST_CELL = 1 << 24


def read_csv(path: Path, columns: tuple[str, ...] = (), delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yields each row of a delimited UTF-8 file as column -> cell.

    Args:
        path: the file.
        columns: columns that must be there; others may be.
        delimiter: what stands between cells.

    Raises:
        PeftuError: the file is missing, not UTF-8, has no such column, or a row of another length.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise PeftuError(f"{path}: has no column '{missing[0]}' — columns: {', '.join(header) or 'none'}")
            for cells in reader:
                if len(cells) != len(header):
                    raise PeftuError(
                        f"{path}: line {reader.line_num}: {len(cells)} cells under {len(header)} columns — "
                        "the file is cut short or was edited; get it again"
                    )
                yield dict(zip(header, cells, strict=True))
    except FileNotFoundError:
        raise PeftuError(f"{path}: no such file — check the --raw folder") from None
    except UnicodeDecodeError as error:
        raise PeftuError(f"{path}: byte {error.start} is not UTF-8 — save the file as UTF-8") from None
    except csv.Error as error:
        raise PeftuError(f"{path}: line {reader.line_num}: {error} — the file is cut short or was edited") from None
