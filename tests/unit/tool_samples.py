"""Small exports in the layouts of annotation tools, written from what their publishers document; the words are ours.

Each sample is files by name, and the judgements that a person reads off them: (user, text, labels).
"""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

RAIN, SUN, FOG = "rain again today", "the sun came out", "fog on the hill"
ANN, BEN, CYD = "ann-7781", "ben-7782", "cyd-7783"


@dataclass(frozen=True)
class Sample:
    """An export and what it holds.

    Attributes:
        reader: that must claim it.
        files: name -> content; several are a folder, or with ``zipped`` an archive.
        judgements: (user, text, labels, sorted) of every row.
        left_out: how many were left out, by words that stand in the remark.
        flags: what the command needs besides the path.
        kind: of the labels.
    """

    reader: str
    files: Mapping[str, Any]
    judgements: frozenset[tuple[str, str, tuple[str, ...]]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    kind: str = "single"
    zipped: bool = False

    def write(self, folder: Path, files: Mapping[str, Any] | None = None) -> Path:
        """Returns the path to import, after writing the files, or others in their place."""
        files = self.files if files is None else files
        if self.zipped:
            path = folder / "export.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, as_bytes(name, content))
            return path
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(as_bytes(name, content))
        return folder / next(iter(files)) if len(files) == 1 else folder / next(iter(files)).split("/")[0]


def as_bytes(name: str, content: Any) -> bytes:
    """Returns a file's bytes; plain data is written as its name's ending says."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if name.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in content).encode()
    if name.endswith((".csv", ".tsv")):
        return table(content, "\t" if name.endswith(".tsv") else ",").encode()
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        pl.DataFrame(content).write_parquet(buffer)
        return buffer.getvalue()
    return json.dumps(content, indent=1).encode()


def table(rows: list[dict[str, Any]], delimiter: str) -> str:
    """Returns rows as delimited text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def judged(*rows: tuple[str, str, str | Iterable[str]]) -> frozenset[tuple[str, str, tuple[str, ...]]]:
    """Returns judgements; a label alone is one."""
    return frozenset(
        (user, text, (labels,) if isinstance(labels, str) else tuple(sorted(labels))) for user, text, labels in rows
    )
