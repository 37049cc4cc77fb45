"""Tables that hold several judgements a row, or their texts elsewhere, become one judgement a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from peftu.data.labelling import as_text
from peftu.data.readers.columns import NAMES, check_names, find_columns, known_column
from peftu.data.readers.judgements import as_cell
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError, Source, place_of
from peftu.errors import PeftuError
from peftu.outside import parse_literal

EMPTY = "cells without a judgement"
NO_ELEMENTS = "rows whose lists are empty"


@dataclass(frozen=True)
class Join:
    """A second table.

    Attributes:
        path: of any layout that a reader knows.
        on: the column of keys in both, or 'FIRST=SECOND' where they are called differently.
    """

    path: Path
    on: str


@dataclass(frozen=True)
class Reshaping:
    """How a table is to be reshaped, in this order.

    Attributes:
        explode: columns of lists; each element becomes a row. One column of objects gives a column for each field.
        wide_users: pattern of the columns that are users' labels; a column's name is the user.
        wide_items: pattern of the columns that are items' labels; a column's name is the item.
        texts: the file with the texts of these items; None: what the layout says was asked in a column.
        joins: tables whose columns are put beside.
    """

    explode: tuple[str, ...] = ()
    wide_users: str | None = None
    wide_items: str | None = None
    texts: Path | None = None
    joins: tuple[Join, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Returns the further files that are read."""
        return tuple(filter(None, [self.texts, *(join.path for join in self.joins)]))


def joins_of(paths: Sequence[Path], on: Sequence[str]) -> tuple[Join, ...]:
    """Returns the joins of options given several times.

    Raises:
        PeftuError: there is not one column for each table.
    """
    if len(paths) != len(on):
        raise PeftuError(
            f"--join, --on: {len(paths)} tables and {len(on)} columns — pass --on COLUMN for each --join FILE"
        )
    return tuple(Join(path, column) for path, column in zip(paths, on, strict=True))


class Places(Sequence[str]):
    """Where each row of a reshaped table stands: the row it comes from, and which part of it.

    Args:
        rows: the place of each row in the table before, from 0.
        parts: which part of it, from 0.
        before: the places of the rows before; None: they count.
        word: what a part is.
    """

    def __init__(self, rows: np.ndarray, parts: np.ndarray, before: Sequence[str] | None, word: str) -> None:
        self._rows, self._parts, self._before, self._word = rows, parts, before, word

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._rows)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        """Returns where a row stands."""
        place = self._rows[row]
        return f"{place_of(self._before, place)}, {self._word} {self._parts[row] + 1}"


def reshape(source: Source, how: Reshaping, columns: Mapping[str, str | None]) -> Source:
    """Returns a source of one judgement a row.

    Args:
        source: the table as it is.
        how: what to do with it.
        columns: role -> column as given; item, text and context are columns of ``how.texts`` where there is that file.

    Raises:
        PeftuError: columns are missing, or keys stand twice.
        RowsError: lists are not equally long, or are none.
    """
    if how.wide_users and how.wide_items:
        raise PeftuError("--wide-users, --wide-items: a column cannot be both — pass one of them")
    if how.texts and not how.wide_items:
        raise PeftuError("--texts: is for --wide-items — pass --join FILE --on COLUMN for another table")
    if how == Reshaping():
        return source
    check_names(source, source.columns)
    frame, notes = source.read(source.columns)
    source = _of(source, frame, notes=notes)
    if how.explode:
        source = _exploded(source, how.explode)
    if how.wide_users:
        source = _long(source, how.wide_users, "user")
    if how.wide_items:
        source = _with_texts(_long(source, how.wide_items, "item"), how.texts, columns)
    for join in how.joins:
        source = _joined(source, join)
    return source


def _of(
    source: Source,
    frame: pl.DataFrame,
    *,
    roles: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    left_out: Mapping[str, int] | None = None,
    places: Sequence[str] | None = None,
) -> Source:
    """Returns the source with another frame, and what that adds to it."""
    return replace(
        source,
        columns=tuple(frame.columns),
        load=lambda names: (frame.select(names), []),
        roles={role: name for role, name in source.roles.items() if name in frame.columns} | dict(roles or {}),
        questions=tuple(name for name in source.questions if name in frame.columns),
        head=(),
        notes=(*source.notes, *notes),
        left_out={**source.left_out, **{what: number for what, number in (left_out or {}).items() if number}},
        places=source.places if places is None else places,
    )


def _all(source: Source) -> pl.DataFrame:
    return source.read(source.columns)[0]


def _free(name: str, columns: Sequence[str]) -> str:
    """Returns a name that no column has."""
    while name in columns:
        name += "_"
    return name


def _exploded(source: Source, columns: Sequence[str]) -> Source:
    """Returns a row for each element of lists that stand beside one another.

    Raises:
        RowsError: a cell holds no list, or lists of a row are not equally long.
    """
    for name in columns:
        known_column(source, name, "--explode", NAMES)
    frame = _all(source)
    lists, problems = [], []
    for name in columns:
        cells, wrong = _lists(frame[name])
        lists.append(cells)
        problems += [(row + 1, f'column \'{name}\' holds no list — write it as ["a", "b"]') for row in wrong]
    sizes = np.array([cells.list.len().fill_null(0).to_numpy() for cells in lists])
    bad = {row for row, _ in problems}
    uneven = np.flatnonzero((sizes != sizes[0]).any(axis=0))
    problems += [
        (int(row) + 1, f"its lists hold {' and '.join(map(str, sizes[:, row]))} elements — give each as many")
        for row in uneven
        if row + 1 not in bad
    ]
    if problems:
        raise RowsError(source.path, problems, places=source.places)
    rows = np.repeat(np.arange(len(frame)), sizes[0])
    parts = np.concatenate([np.arange(size) for size in sizes[0]]) if len(rows) else rows
    long = frame.drop(columns)[rows] if len(columns) < frame.width else pl.DataFrame()
    for name, cells in zip(columns, lists, strict=True):
        element = cells.filter(cells.list.len() > 0).explode().alias(name)
        fields = element.struct.unnest() if isinstance(element.dtype, pl.Struct) else element.to_frame()
        long = long.with_columns(field.alias(_free(field.name, long.columns)) for field in fields)
    places = Places(rows, parts, source.places, "element")
    return _of(source, long, left_out={NO_ELEMENTS: int((sizes[0] == 0).sum())}, places=places)


def _lists(cells: pl.Series) -> tuple[pl.Series, list[int]]:
    """Returns cells as lists, and the rows that hold none; an empty cell is an empty list."""
    if isinstance(cells.dtype, pl.List):
        return cells, []
    if isinstance(cells.dtype, pl.Array):
        return cells.arr.to_list(), []
    if cells.dtype != pl.String:
        return cells.cast(pl.String).cast(pl.List(pl.String)), list(range(len(cells)))
    values = [_parsed(cell) if cell and cell.strip() else [] for cell in cells]
    return pl.Series(cells.name, values, pl.List(pl.String)), [row for row, value in enumerate(values) if value is None]


def _parsed(cell: str) -> list[str | None] | None:
    """Returns the list that a cell holds as JSON or as Python writes it; None where it holds none."""
    try:
        value = parse_literal(cell)
    except ValueError:
        return None
    return [as_cell(element) for element in value] if isinstance(value, list | tuple) else None


def _long(source: Source, pattern: str, role: Literal["user", "item"]) -> Source:
    """Returns a row for each filled cell of the columns that fit a pattern; their name is the user or item.

    Raises:
        PeftuError: no column fits, or they hold what is neither text nor number.
    """
    wide = [name for name in source.columns if fnmatchcase(name, pattern)]
    if not wide:
        raise PeftuError(f"{source.path}: --wide-{role}s: no column is called like '{pattern}' — put it in quotes")
    frame = _all(source)
    name, label = (_free(new, [old for old in frame.columns if old not in wide]) for new in (role, "label"))
    cells = _alike(source, frame.select(wide))
    flat = cells.select(pl.concat_list(pl.all()).alias(label)).to_series().explode()
    filled = flat.is_not_null() & (flat.str.strip_chars() != "" if flat.dtype == pl.String else flat.is_not_nan())
    places = filled.arg_true().to_numpy()
    rows, parts = places // len(wide), places % len(wide)
    names = pl.Series(name, wide, pl.String).gather(parts)
    long = frame.drop(wide)[rows] if len(wide) < frame.width else pl.DataFrame()
    long = long.with_columns(names, flat.filter(filled))
    return _of(
        source,
        long,
        roles={role: name, "label": label},
        notes=[f"{len(wide):,} columns hold the labels of one {role} each"],
        left_out={EMPTY: len(flat) - len(places)},
        places=Places(rows, parts, source.places, "labelled column"),
    )


def _alike(source: Source, cells: pl.DataFrame) -> pl.DataFrame:
    """Returns cells of one type: whole numbers, numbers, or text."""
    if all(dtype.is_integer() for dtype in cells.dtypes):
        return cells.cast(pl.Int64)
    if all(dtype.is_numeric() for dtype in cells.dtypes):
        return cells.cast(pl.Float64)
    try:
        return pl.DataFrame([as_text(column, column.name) for column in cells])
    except PeftuError:  # a column may be called after a user
        raise PeftuError(f"{source.path}: a column of labels holds lists or objects — write text or numbers") from None


def _with_texts(source: Source, texts: Path | None, columns: Mapping[str, str | None]) -> Source:
    """Returns a source with the text of each item beside it.

    Raises:
        PeftuError: a column of the second file cannot be found, or an item stands there twice.
    """
    item = source.roles["item"]
    if texts is None:
        if not source.titles:
            raise PeftuError(f"{source.path}: --wide-items: the items' texts are not in this file — pass --texts FILE")
        titles = {key: title for key, title in source.titles.items() if key in set(_all(source)[item])}
        second = pl.DataFrame({item: list(titles), "text": list(titles.values())})
        return _beside(source, second, item, item, "what was asked", {"text": "text"})
    with opened(texts) as other:
        names = {role: NAMES[role] for role in ("item", "text", "context")}
        given = {role: column for role, column in columns.items() if role in names and column is not None}
        roles = find_columns(other, names, given, ("item", "text"), ()).chosen
        frame, _ = other.read(tuple(roles.values()))
        key = roles.pop("item")
        named = _free(key, [name for name in source.columns if name != item])  # --item names that column
        source = _of(source, _all(source).rename({item: named}), roles={"item": named})
        return _beside(source, frame, named, key, str(texts), roles, other.places)


def _joined(source: Source, join: Join) -> Source:
    """Returns a source with the columns of another table beside it.

    Raises:
        PeftuError: there is no such column, or a key stands twice in the other table.
    """
    left, _, right = join.on.partition("=")
    known_column(source, left, "--on", NAMES)
    with opened(join.path) as other:
        known_column(other, right or left, "--on", NAMES)
        frame, _ = other.read(tuple(dict.fromkeys(other.columns)))
        roles = {role: name for role, name in other.roles.items() if role not in source.roles}
        return _beside(source, frame, left, right or left, str(join.path), roles, other.places)


def _beside(
    source: Source,
    second: pl.DataFrame,
    left: str,
    right: str,
    where: str,
    roles: Mapping[str, str],
    places: Sequence[str] | None = None,
) -> Source:
    """Returns a source with each row's values of a second table: null where that has no such key.

    Args:
        source: many rows a key.
        second: one row a key.
        left: the column of keys.
        right: that of the second table.
        where: the second table, for messages.
        roles: what columns of the second table are.
        places: where its rows stand.

    Raises:
        PeftuError: a key stands twice in the second table, with different values.
    """
    frame = _all(source)
    key = _free("key", [*frame.columns, *second.columns])
    row = _free("row", second.columns)
    keyed = second.with_columns(_keys(where, second[right]).alias(key)).with_row_index(row)
    keyed = keyed.filter(pl.col(key).is_not_null()).unique([*second.columns, key], keep="first", maintain_order=True)
    doubled = keyed.filter(pl.col(key).is_duplicated())
    if len(doubled):
        first = doubled.filter(pl.col(key) == doubled[key][0])[row][:2]
        named = " and ".join(place_of(places, place) for place in first)
        raise PeftuError(f"{where}: {named} have the same '{right}' — keep one row for each")
    names = {name: _free(name, frame.columns) for name in second.columns if name != right}
    renamed = [f"'{old}' is '{new}'" for old, new in names.items() if old != new]
    notes = [f"columns that both tables have: that of {where} called {', '.join(renamed)}"] if renamed else []
    keys = _keys(str(source.path), frame[left]).alias(key)
    without = int((~keys.is_in(keyed[key].implode())).fill_null(value=True).sum())
    if without:
        notes.append(f"{without:,} rows have a '{left}' that {where} lacks: what it adds is empty there")
    unused = int((~keyed[key].is_in(keys.drop_nulls().implode())).sum())
    if unused:
        notes.append(f"{unused:,} rows of {where} go with no row here")
    added = keyed.drop(row, right).rename(names)
    joined = frame.with_columns(keys).join(added, on=key, how="left", maintain_order="left").drop(key)
    return _of(source, joined, roles={role: names.get(name, left) for role, name in roles.items()}, notes=notes)


def _keys(where: str, keys: pl.Series) -> pl.Series:
    try:
        return as_text(keys, keys.name).str.strip_chars().replace("", None)
    except PeftuError as error:
        raise PeftuError(f"{where}: {error}") from None
