"""The user table: every judgement of a task, checked, in one order, under one hash."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from peftu.data.sources import writing_to
from peftu.data.task import LeftOut, Row, TaskCard
from peftu.data.texts import with_controls
from peftu.errors import PeftuError
from peftu.files import private_file, replacing
from peftu.outside import HALF, parse_json, plain_file
from peftu.registry import did_you_mean

FORMAT = "peftu-table-1"
SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "text": pl.String(),
    "target": pl.List(pl.String),
    "context": pl.String(),
    "time": pl.Float64(),
    "meta": pl.String(),
}
UNFIT = (TypeError, ValueError, pa.ArrowException, pl.exceptions.PolarsError)  # what a value of a wrong type raises
SLICE = 1 << 16  # rows whose texts are copied at once
Problems = list[tuple[int, str]]  # (row number in file order, what is wrong and how to mend it)


@dataclass(frozen=True, eq=False)
class UserTable:
    """Every judgement of a task.

    Attributes:
        card: the task's card.
        frame: the columns of SCHEMA, sorted by (user_id, item_id); several labels stand in the label set's order.
        hash: 'sha256:…' of the rows; the same for any order of the raw rows, platform and library version.
        options: the task's options it was built with.
        sources: sha256 of each raw file it was built from, by name.
        notes: what was left out, and how many of it.
    """

    card: TaskCard
    frame: pl.DataFrame
    hash: str
    options: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        card: TaskCard,
        rows: Iterable[Row | LeftOut],
        options: dict[str, Any] | None = None,
        sources: dict[str, str] | None = None,
    ) -> "UserTable":
        """Returns the table of these rows, after checking every one; what is left out is counted in ``notes``.

        Raises:
            PeftuError: one line with the first wrong row, its number in file order, and how many more are wrong.
        """
        kept, notes = _sorted_out(rows)
        if notes and not kept:
            left = "; ".join(f"{what}: {number:,}" for what, number in notes.items())
            raise PeftuError(f"{card.name}: nothing is left ({left}) — loosen the task's options or get more data")
        return cls.of_frame(card, _frame(card, kept), options, sources, notes)

    @classmethod
    def of_frame(
        cls,
        card: TaskCard,
        frame: pl.DataFrame,
        options: dict[str, Any] | None = None,
        sources: dict[str, str] | None = None,
        notes: dict[str, int] | None = None,
    ) -> "UserTable":
        """Returns the table of a frame with the columns of SCHEMA, in file order; as ``build`` but without row objects.

        Raises:
            PeftuError: as for ``build``.
        """
        problems = _problems(card, frame)
        if problems:
            raise PeftuError(_message(card, problems))
        frame = _canonical(card, frame)
        return cls(card, frame, content_hash(frame), options or {}, sources or {}, notes or {})

    def with_examples(self, least: int) -> "UserTable":
        """Returns the table without the users who have fewer than ``least`` rows; they are counted in the notes.

        Raises:
            PeftuError: no user has as many.
        """
        rows = pl.len().over("user_id")
        frame = self.frame.filter(rows >= least)
        if frame.is_empty():
            most = self.frame.select(rows.max()).item()
            raise PeftuError(f"{self.card.name}: no user has {least} examples (most: {most}) — lower min_examples")
        few = self.frame["user_id"].n_unique() - frame["user_id"].n_unique()
        notes = {**self.notes, f"users with fewer than {least} examples": few} if few else self.notes
        return replace(self, frame=frame, hash=content_hash(frame), notes=notes)

    def write(self, path: Path) -> Path:
        """Returns the path after writing the table there as Parquet, whole or not at all.

        Raises:
            PeftuError: the disk is full or the folder cannot be written.
        """
        about = {"hash": self.hash, "options": self.options, "sources": self.sources, "notes": self.notes}
        metadata = {FORMAT: json.dumps(about, sort_keys=True), "peftu-card": self.card.model_dump_json()}
        table = self.frame.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(metadata)
        with writing_to(path.parent), replacing(path) as part:
            pq.write_table(table, private_file(part), compression="zstd")
        return path

    @classmethod
    def read(cls, path: Path) -> "UserTable":
        """Returns the table that ``write`` put there.

        Raises:
            PeftuError: the file is missing, truncated, altered or no user table.
        """
        try:
            table = pq.read_table(plain_file(path))
        except FileNotFoundError:
            build = f"peftu data build TASK --out {shlex.quote(str(path))}"
            raise PeftuError(f"{path}: no such file — build it with: {build}") from None
        except (pa.ArrowInvalid, OSError, ValueError):
            raise PeftuError(f"{path}: is truncated or no Parquet file — delete it and build it again") from None
        metadata = table.schema.metadata or {}
        if FORMAT.encode() not in metadata:
            raise PeftuError(f"{path}: is Parquet but no user table of this version — build it again")
        try:
            about = parse_json(metadata[FORMAT.encode()])
            card = TaskCard.model_validate_json(metadata[b"peftu-card"])
        except (KeyError, ValueError):
            raise PeftuError(f"{path}: what it says of itself is damaged — delete it and build it again") from None
        frame = pl.DataFrame(pl.from_arrow(table))
        if dict(frame.schema) != SCHEMA or content_hash(frame) != about["hash"]:
            raise PeftuError(f"{path}: its rows are not those that its hash names — delete it and build it again")
        return cls(card, frame, about["hash"], about["options"], about["sources"], about.get("notes", {}))


def content_hash(frame: pl.DataFrame) -> str:
    """Returns 'sha256:…' of a frame's values, column by column: lengths and bytes, little-endian, nulls marked."""
    digest = hashlib.sha256(f"{FORMAT}\n{frame.height}\n".encode())
    for name in frame.columns:
        digest.update(f"{name}\n".encode())
        column = frame[name]
        if column.dtype == pl.List(pl.String):
            digest.update(column.list.len().to_numpy().astype("<i8").tobytes())
            column = column.explode().drop_nulls()
        if column.dtype == pl.String:
            digest.update(column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes())
            texts = column.drop_nulls()
            for start in range(0, len(texts), SLICE):
                digest.update("".join(texts.slice(start, SLICE).to_list()).encode())
        else:
            digest.update(column.cast(pl.Float64).fill_null(np.nan).to_numpy().astype("<f8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _sorted_out(rows: Iterable[Row | LeftOut]) -> tuple[list[Row], dict[str, int]]:
    """Returns the rows, and what was left out with its number, in order of appearance."""
    kept: list[Row] = []
    notes: dict[str, int] = {}
    for row in rows:
        if not isinstance(row, LeftOut):
            kept.append(row)
        elif row.number:
            notes[row.what] = notes.get(row.what, 0) + row.number
    return kept, notes


def _frame(card: TaskCard, rows: Sequence[Row]) -> pl.DataFrame:
    """Returns the rows as a frame in file order."""
    if not rows:
        raise PeftuError(f"{card.name}: the raw files hold no row — check that they are the right ones")
    names = Row._fields
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    try:
        return pl.DataFrame([_column(name, columns[name]) for name in SCHEMA])
    except UNFIT:
        for number, row in enumerate(rows, 1):
            for name, dtype in SCHEMA.items():
                try:
                    _column(name, [getattr(row, name)])
                except UnicodeEncodeError:
                    raise PeftuError(f"{card.name}: row {number}: {name} {HALF} — write whole ones") from None
                except UNFIT:
                    raise PeftuError(f"{card.name}: row {number}: {name} cannot be stored as {dtype}") from None
        raise


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    if name == "target":
        if any(isinstance(value, str) for value in values):
            raise TypeError("a bare string would be taken letter by letter")
        # Arrow takes many small lists ten times faster than polars does
        return pl.Series(name, pa.array(values, pa.large_list(pa.large_string())))
    return pl.Series(name, values, SCHEMA[name])


def _problems(card: TaskCard, frame: pl.DataFrame) -> Problems:
    """Returns what is wrong with the rows, in file order."""
    frame = frame.with_row_index("row", 1)
    problems: Problems = []
    for name in ("user_id", "item_id", "text"):
        empty = frame.filter(pl.col(name).is_null() | (pl.col(name).str.strip_chars() == ""))
        problems += [(row, f"{name} is empty — fill it in or leave the row out") for row in empty["row"]]
    for name in ("user_id", "item_id"):
        problems += [(row + 1, f"{name} holds a control character — take it out") for row in with_controls(frame[name])]
    endless = frame.filter(pl.col("time").is_nan() | pl.col("time").is_infinite())
    problems += [(row, "time is no number — give seconds since 1970 or nothing") for row in endless["row"]]
    problems += _label_problems(card, frame)
    problems += _repeated_rows(frame)
    problems += _items_with_two_texts(frame)
    return sorted(problems)


def _label_problems(card: TaskCard, frame: pl.DataFrame) -> Problems:
    number = pl.col("target").list.len().fill_null(0)
    wrong = frame.filter(number != 1 if card.answers.exclusive else number == 0)
    problems: Problems = [
        (row, f"target has no or several labels — kind '{card.kind}' takes {card.answers.takes}")
        for row in wrong["row"]
    ]
    given = frame.select("row", "target").explode("target").drop_nulls()
    if not card.answers.labelled:
        empty = given.filter(pl.col("target").str.strip_chars() == "")
        return problems + [(row, "target is empty — fill it in or leave the row out") for row in empty["row"]]
    broken = given["row"].gather(with_controls(given["target"])).unique()
    problems += [(row, "a label holds a control character — take it out") for row in broken]
    for row, label in given.filter(~pl.col("target").is_in(list(card.labels))).iter_rows():
        shown = label if len(label) <= 40 else label[:40] + "…"
        problems.append((row, f"label {shown!r} is not in the label set{did_you_mean(label, card.labels)}"))
    twice = given.filter(pl.struct("row", "target").is_duplicated()).unique("row")
    return problems + [(row, "a label stands twice in the target — name it once") for row in twice["row"]]


def _repeated_rows(frame: pl.DataFrame) -> Problems:
    key = ["user_id", "item_id"]
    repeated = frame.filter(pl.struct(key).is_duplicated() & pl.all_horizontal(pl.col(key).is_not_null()))
    first: dict[tuple[str, str], tuple[Any, ...]] = {}
    problems: Problems = []
    for values in repeated.select("row", *key, *(set(SCHEMA) - set(key))).iter_rows():
        row, user, item, *rest = values
        if (user, item) not in first:
            first[user, item] = (row, rest)
            continue
        earlier, before = first[user, item]
        how = (
            "repeats row {} — keep one"
            if rest == before
            else "is by the user and on the item of row {}, with another answer — keep one"
        )
        problems.append((row, how.format(earlier)))
    return problems


def _items_with_two_texts(frame: pl.DataFrame) -> Problems:
    texts = frame.select("row", "item_id", pl.struct("text", "context").alias("pair"))
    double = texts.with_columns(
        pl.col("pair").first().over("item_id").alias("other"), pl.col("row").min().over("item_id").alias("earlier")
    ).filter(pl.col("pair") != pl.col("other"))
    mend = "give each text an item key of its own"
    return [
        (row, f"has the item key of row {earlier} but another text — {mend}")
        for row, earlier in double.select("row", "earlier").iter_rows()
    ]


def _message(card: TaskCard, problems: Problems) -> str:
    row, text = problems[0]
    others = sorted({number for number, _ in problems[1:]} - {row})
    if not others:
        return f"{card.name}: row {row}: {text}"
    listed = ", ".join(map(str, others[:5])) + (", …" if len(others) > 5 else "")
    noun = "row is" if len(others) == 1 else "rows are"
    return f"{card.name}: row {row}: {text}; {len(others)} more {noun} wrong ({listed})"


def _canonical(card: TaskCard, frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the rows in key order, each target in label order."""
    if not card.answers.exclusive:
        order = pl.Enum(card.labels)
        frame = frame.with_columns(
            pl.col("target").cast(pl.List(order)).list.sort().cast(pl.List(pl.String)).alias("target")
        )
    return frame.sort("user_id", "item_id")
