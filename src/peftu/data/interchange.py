"""User tables to and from other tools: Hugging Face ``datasets`` folders, Parquet, Parquet with a Croissant card."""

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.interchange_croissant import croissant
from peftu.data.readers.datasets_folder import CARD, datasets_package
from peftu.data.sources import new_file, writing_to
from peftu.data.table import UserTable
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.files import private_file, replacing, sha256_of, write_atomic
from peftu.registry import did_you_mean

FORMATS = ("hf", "croissant", "parquet")
HF_PARTS = {"train": "train", "val": "validation", "test": "test"}


def export(table: UserTable, form: str, out: Path) -> dict[str, Any]:
    """Returns what was written, after writing a table to a folder for other tools.

    Args:
        table: the table.
        form: 'parquet': the user table with its card, as ``peftu data import`` takes it; 'croissant': a plain table
            and ``croissant.json``; 'hf': a folder for ``datasets.load_from_disk``.
        out: the folder.

    Raises:
        PeftuError: an unknown format, a folder that cannot be written, a file that is there already, or ``datasets`` is
            missing.
    """
    if form not in FORMATS:
        raise PeftuError(f"--format: unknown format '{form}'{did_you_mean(form, FORMATS)}")
    name = table.card.name
    if form == "hf":
        _save_hf(table, out)
    elif form == "parquet":
        table.write(new_file(out / f"{name}.parquet"))
    else:
        _write_croissant(table, out)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    size = sum((out / file).stat().st_size for file in files)
    about = {"rows": table.frame.height, "hash": table.hash, "licence": table.card.licence}
    return {"task": name, "format": form, "folder": str(out), "files": files, "bytes": size, **about}


def flat(table: UserTable) -> pl.DataFrame:
    """Returns the table with one plain ``label`` column (lists for kind 'multi') and without columns that are empty."""
    label = pl.col("target").list.first() if table.card.answers.exclusive else pl.col("target")
    frame = table.frame.with_columns(label.alias("label"))
    names = ["user_id", "item_id", "text", "label", "context", "time", "meta"]
    return frame.select(name for name in names if frame[name].count())


def _save_hf(table: UserTable, out: Path) -> None:
    """Writes a Dataset, or a DatasetDict where the publisher fixed a split; the folder appears whole."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PeftuError(f"{out}: is not empty — pass a new or empty folder with --out")
    datasets = datasets_package()
    frame, card = flat(table), table.card
    with writing_to(out.parent), tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / "whole"
        shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            _dataset(datasets, frame, card).save_to_disk(str(part))
        finally:
            if shown:
                datasets.enable_progress_bars()
        (part / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(out)


def _dataset(datasets: Any, frame: pl.DataFrame, card: TaskCard) -> Any:
    features = {
        name: datasets.Value("float64" if dtype.is_float() else "string") for name, dtype in frame.schema.items()
    }
    if card.answers.labelled:
        numbers = {label: number for number, label in enumerate(card.labels)}
        exclusive = card.answers.exclusive
        places = pl.col("label") if exclusive else pl.element()
        places = places.replace_strict(numbers, return_dtype=pl.Int64)
        frame = frame.with_columns(places if exclusive else pl.col("label").list.eval(places))
        label = datasets.ClassLabel(names=list(card.labels))
        features["label"] = label if exclusive else datasets.List(label)
    about = datasets.DatasetInfo(
        description=card.description,
        citation=card.citation,
        homepage=card.homepage,
        license=card.licence,
        features=datasets.Features(features),
    )

    def made(rows: pl.DataFrame) -> Any:
        arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(about.features.arrow_schema)
        return datasets.Dataset(arrow, info=about)

    part = pl.col("meta").str.json_path_match("$.split") if "meta" in frame else pl.lit(None, pl.String)
    parts = frame.select(part.alias("part"))["part"]
    if parts.is_in(list(HF_PARTS)).fill_null(value=False).all():
        return datasets.DatasetDict({HF_PARTS[name]: made(frame.filter(parts == name)) for name in HF_PARTS})
    return made(frame)


def _write_croissant(table: UserTable, out: Path) -> None:
    frame = flat(table)
    path, about_path = (new_file(out / name) for name in (f"{table.card.name}.parquet", "croissant.json"))
    with writing_to(out):
        with replacing(path) as part:
            frame.write_parquet(private_file(part))
        about = croissant(table.card, frame, path.name, sha256_of(path), path.stat().st_size)
        write_atomic(about_path, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
