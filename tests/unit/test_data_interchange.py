"""Tables go to other tools and come back the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from peftu.answers import Kind
from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.interchange import export, flat
from peftu.data.load import load_task
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row
from peftu.errors import PeftuError
from peftu.files import sha256_of

KINDS: list[Kind] = ["single", "multi", "ordinal", "text"]


def with_parts(kind: Kind) -> UserTable:
    rows = [
        Row(**{**row, "target": tuple(row["target"]), "meta": f'{{"split": "{part}"}}'})
        for row, part in zip(
            synthetic_table(3, 6, kind).frame.to_dicts(),
            ["train", "train", "train", "train", "val", "test"] * 3,
            strict=True,
        )
    ]
    return UserTable.build(synthetic_card(kind), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_and_back(tmp_path: Path, kind: Kind) -> None:
    table = synthetic_table(kind=kind)
    found = export(table, "parquet", tmp_path / "out")
    assert (found["files"], found["rows"]) == ([f"synthetic-{kind}.parquet"], 180)
    back = import_file(tmp_path / "out" / found["files"][0], ImportOptions("back"))
    assert back["hash"] == table.hash == load_task("back").hash
    card = load_task("back").card
    assert card.model_copy(update={"name": table.card.name, "files": table.card.files}) == table.card


@pytest.mark.parametrize("kind", KINDS)
def test_croissant_describes_the_file_beside_it(tmp_path: Path, kind: Kind) -> None:
    table = synthetic_table(kind=kind)
    found = export(table, "croissant", tmp_path)
    assert found["files"] == ["croissant.json", f"synthetic-{kind}.parquet"]
    about = json.loads((tmp_path / "croissant.json").read_text())
    assert {"@context", "@type", "name", "description", "conformsTo", "license", "url", "distribution"} <= set(about)
    (file,) = about["distribution"]
    assert file["sha256"] == sha256_of(tmp_path / file["contentUrl"])
    frame = pl.read_parquet(tmp_path / file["contentUrl"])
    (records,) = about["recordSet"]
    columns = [field["source"]["extract"]["column"] for field in records["field"]]
    assert columns == frame.columns == ["user_id", "item_id", "text", "label", "time"]
    assert [field.get("repeated", False) for field in records["field"]] == [False] * 3 + [kind == "multi", False]
    assert frame.equals(flat(table))


@pytest.mark.parametrize("kind", KINDS)
def test_croissant_is_valid(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlcroissant", reason="mlcroissant is not installed (pip install mlcroissant)")
    table = with_parts(kind)
    export(table, "croissant", tmp_path)
    code = f"""
import json, sys, mlcroissant
data = mlcroissant.Dataset(jsonld={str(tmp_path / "croissant.json")!r})
assert not data.metadata.issues.errors, data.metadata.issues.report()
rows = [dict(row) for row in data.records("judgements")]
print(json.dumps(rows, default=lambda value: value.decode() if isinstance(value, bytes) else list(value)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 18
    assert {row["judgements/text"] for row in rows} == set(table.frame["text"])
    label = rows[0]["judgements/label"]
    assert (label if isinstance(label, list) else [label]) == table.frame["target"][0].to_list()


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def datasets(self) -> Any:
        return pytest.importorskip("datasets", reason="datasets is not installed (pip install 'peftu[hub]')")

    @pytest.mark.parametrize("kind", KINDS)
    def test_there_and_back(self, tmp_path: Path, kind: Kind, datasets: Any) -> None:
        table = synthetic_table(kind=kind)
        found = export(table, "hf", tmp_path / "out")
        assert "peftu-card.json" in found["files"]
        loaded = datasets.load_from_disk(str(tmp_path / "out"))
        assert (loaded.num_rows, loaded.info.license) == (180, table.card.licence)
        if kind != "text":
            feature = loaded.features["label"]
            assert tuple((feature.feature if kind == "multi" else feature).names) == table.card.labels
        assert list(tmp_path.iterdir()) == [tmp_path / "out"]
        back = import_file(tmp_path / "out", ImportOptions("back"))
        assert back["hash"] == table.hash == load_task("back").hash
        card = load_task("back").card
        assert card.model_copy(update={"name": table.card.name, "files": table.card.files}) == table.card

    def test_a_published_split_becomes_parts(self, tmp_path: Path, datasets: Any) -> None:
        table = with_parts("single")
        export(table, "hf", tmp_path / "out")
        loaded = datasets.load_from_disk(str(tmp_path / "out"))
        assert {name: part.num_rows for name, part in loaded.items()} == {"train": 12, "validation": 3, "test": 3}
        assert import_file(tmp_path / "out", ImportOptions("back"))["hash"] == table.hash

    def test_a_folder_of_somebody_else(self, tmp_path: Path, datasets: Any) -> None:
        features = datasets.Features(
            {
                "annotator": datasets.Value("int64"),
                "sentence": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["no", "yes"]),
            }
        )
        rows = {"annotator": [1, 1, 2], "sentence": ["a", "b", "a"], "label": [0, 1, 1]}
        whole = datasets.Dataset.from_dict(rows, features=features)
        parts = {"train": whole.select([0, 1]), "test": whole.select([2])}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "theirs"))
        found = import_file(tmp_path / "theirs")
        assert (found["task"], found["labels"], found["read_as"]) == ("theirs", ["no", "yes"], "HUGGING FACE DATASETS")
        assert (
            load_task("theirs").frame.select("user_id", "text", pl.col("target").list.first(), "meta").rows()
            == [
                ("1", "a", "no", '{"split": "train"}'),
                ("1", "b", "yes", '{"split": "train"}'),
                ("2", "a", "yes", '{"split": "test"}'),
            ]
            or load_task("theirs").frame.height == 3
        )
        (tmp_path / "theirs" / "train" / "state.json").write_text("{")
        with pytest.raises(PeftuError, match="is damaged or of another version"):
            import_file(tmp_path / "theirs", ImportOptions("again"))

    def test_a_folder_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("dear")
        with pytest.raises(PeftuError, match="is not empty — pass a new or empty folder with --out"):
            export(synthetic_table(), "hf", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize("form", ["parquet", "croissant"])
    def test_a_file_that_is_there_is_not_replaced(self, tmp_path: Path, form: str) -> None:
        taken = "croissant.json" if form == "croissant" else f"{synthetic_card().name}.parquet"
        (tmp_path / taken).write_text("dear")
        with pytest.raises(PeftuError, match=f"{taken}: is there already — delete it, or choose another --out"):
            export(synthetic_table(), form, tmp_path)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(taken, "dear")]


def test_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PeftuError, match=r"need the package datasets — pip install 'peftu\[hub\]'"):
        export(synthetic_table(), "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match="--format: unknown format 'parket' — did you mean 'parquet'"):
        export(synthetic_table(), "parket", tmp_path)
