"""Exports of annotation tools come in with one command, whole or refused."""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from peftu.cli.app import app
from peftu.data.importer.importing import ImportOptions, import_file, table_of
from peftu.data.importer.roles import find_roles
from peftu.data.load import load_task
from peftu.data.readers.file import unpacked
from peftu.data.readers.reader import opened, readers
from peftu.data.table import UserTable
from peftu.errors import PeftuError
from unit.tool_samples import ANN, BEN, CYD, FOG, RAIN, SUN, Sample
from unit.tool_samples_files import DOCCANO, INCEPTION, POTATO
from unit.tool_samples_records import ARGILLA, LABEL_STUDIO, NESTED, PRODIGY

SAMPLES = LABEL_STUDIO | ARGILLA | DOCCANO | PRODIGY | POTATO | NESTED | INCEPTION
ANNOTATED_PART = {
    "completed_by": 1,
    "result": [{"from_name": "ner", "type": "labels", "value": {"start": 0, "end": 2, "text": "ra", "labels": ["X"]}}],
}
SECRETS = (ANN, BEN, CYD, RAIN, SUN, FOG)


def options(sample: Sample) -> ImportOptions:
    return ImportOptions("mine", labels=sample.flags[1:], replacing=True)


def rows(name: str = "mine") -> list[tuple[str, str, tuple[str, ...]]]:
    frame = load_task(name).frame.select("user_id", "text", pl.col("target").list.sort())
    return [(user, text, tuple(labels)) for user, text, labels in frame.iter_rows()]


def read(path: Path, sample: Sample) -> UserTable:
    """Returns an export's table without keeping it."""
    with opened(path) as source:
        roles = find_roles(source, {}, sample.flags[1:])
        frame, _ = source.read(roles.columns)
        return table_of(frame, roles, options(sample), source).table


@pytest.mark.parametrize("name", SAMPLES)
def test_one_command(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    found = import_file(sample.write(tmp_path), options(sample))
    held = rows()
    assert set(held) == sample.judgements
    assert len(held) == found["annotations"] == len(sample.judgements)
    assert found["kind"] == sample.kind
    for words, number in sample.left_out.items():
        assert any(words in note and note.endswith(f"{number} left out") for note in found["notes"]), found["notes"]
    assert sum("left out" in note for note in found["notes"]) == len(sample.left_out)
    assert not any(secret in note for secret in SECRETS for note in found["notes"])


@pytest.mark.parametrize("name", SAMPLES)
def test_one_reader_claims_each(name: str, tmp_path: Path) -> None:
    with unpacked(SAMPLES[name].write(tmp_path)) as file:
        known = [readers.get(one) for one in readers.names()]
        assert [reader.name for reader in known if not reader.plain and reader.claims(file)] == [SAMPLES[name].reader]


def places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where each node within plain data stands."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*place, key)
        yield from places(value, (*place, key))


def replaced(node: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Returns plain data with another value in a place."""
    if not place:
        return value
    copy = node.copy()
    copy[place[0]] = replaced(node[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize("damages", [13, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_export_is_refused_or_read(name: str, tmp_path: Path, damages: int) -> None:
    """Nodes of an export become something else in turn: one line without keys and texts, or rows that are known."""
    sample = SAMPLES[name]
    wrong = (None, [], {}, 1, "x", [[]])
    plain = [(file, content) for file, content in sample.files.items() if file.endswith((".json", ".jsonl"))]
    nodes = [
        (file, content, place)
        for file, content in plain
        if not isinstance(content, str | bytes)
        for place in places(content)
    ]
    for number, (file, content, place) in enumerate(nodes[:: max(1, len(nodes) // damages)]):
        value = wrong[number % len(wrong)]
        path = sample.write(tmp_path, {**sample.files, file: replaced(content, place, value)})
        try:
            users = set(read(path, sample).frame["user_id"])
        except PeftuError as error:
            said = str(error).replace(str(tmp_path), "").replace(path.name, "")
            assert "\n" not in said, (place, value)
            assert not any(secret in said for secret in SECRETS), (place, value, said)
        else:
            known = {user for user, _, _ in sample.judgements} | {"x", "1", "b@example.org"}
            assert users <= known, (place, value)


class TestWhatIsLost:
    def refused(self, path: Path, *flags: str) -> str:
        with pytest.raises(PeftuError) as caught:
            import_file(path, ImportOptions("mine", labels=flags))
        assert not any(secret in str(caught.value) for secret in SECRETS)
        return str(caught.value)

    def test_doccano_for_everybody(self, tmp_path: Path) -> None:
        rows = "".join(json.dumps({"id": i, "text": RAIN, "label": ["a"]}) + "\n" for i in range(2))
        (tmp_path / "all.jsonl").write_text(rows)
        with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
            archive.writestr("all.jsonl", rows)
        for name in ("all.jsonl", "out.zip"):
            assert "does not say who labelled what" in self.refused(tmp_path / name)

    def test_prodigy_without_named_sessions(self, tmp_path: Path) -> None:
        sample = SAMPLES["prodigy choice"]
        files = {"out.jsonl": [row | {"_annotator_id": "2024-05-01_10-11-12"} for row in sample.files["out.jsonl"]]}
        assert "?session=NAME" in self.refused(sample.write(tmp_path, files))

    @pytest.mark.parametrize("name", ["label-studio several questions", "argilla several labels", "potato 1 JSONL"])
    def test_several_questions_are_named(self, name: str, tmp_path: Path) -> None:
        said = self.refused(SAMPLES[name].write(tmp_path))
        assert f"{SAMPLES[name].flags[1]}, " in said.replace(")", ", ")
        assert "--label" in said

    def test_potato_without_its_texts(self, tmp_path: Path) -> None:
        files = {name: held for name, held in SAMPLES["potato 2 task folder"].files.items() if "user_state" in name}
        path = SAMPLES["potato 2 task folder"].write(tmp_path, files)
        assert "--join FILE --on COLUMN" in self.refused(path)
        (tmp_path / "items.csv").write_text(f"id,text\ni1,{RAIN}\ni2,{SUN}\n")
        arguments = ["--join", str(tmp_path / "items.csv"), "--on", "instance_id=id", "--name", "mine"]
        run = CliRunner().invoke(app, ["data", "import", str(path), *arguments])
        assert run.exit_code == 0, run.output
        assert set(rows()) == SAMPLES["potato 2 task folder"].judgements

    def test_spans_alone_are_no_judgements(self, tmp_path: Path) -> None:
        sample = SAMPLES["label-studio JSON"]
        tasks = [task | {"annotations": [ANNOTATED_PART]} for task in sample.files["project-1.json"]]
        said = self.refused(sample.write(tmp_path, {"project-1.json": tasks}))
        assert "holds no judgement" in said
        assert "a part of the text, or of another form: 2" in said

    def test_a_place_is_named(self, tmp_path: Path) -> None:
        sample = SAMPLES["label-studio JSON"]
        tasks = replaced(sample.files["project-1.json"], (1, "annotations", 0, "result"), None)
        said = self.refused(sample.write(tmp_path, {"project-1.json": tasks}))
        assert "task 2, annotation 1: " in said


def test_commands_of_the_page(tmp_path: Path) -> None:
    """Each command of docs/data.md that names a sample's file runs as it stands there."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    section = page.split("## Files of annotation tools")[1].split("\n## ")[0]
    commands = re.findall(r"`peftu (data import [^`]+)`", section)
    ran = set()
    for number, sample in enumerate(SAMPLES.values()):
        (folder := tmp_path / str(number)).mkdir()
        path = sample.write(folder)
        for words in (command.split() for command in commands):
            if words[2] == path.name and sample.reader not in ran:
                run = CliRunner().invoke(app, [*words[:2], str(path), *words[3:], "--name", f"t{number}", "--json"])
                assert run.exit_code == 0, run.output
                assert json.loads(run.stdout)["annotations"] == len(sample.judgements)
                ran.add(sample.reader)
    assert ran == {sample.reader for sample in SAMPLES.values()}


def test_potato_2_tables_have_a_column_a_schema(tmp_path: Path) -> None:
    """Scales, texts and several values under one schema; the texts judged stand elsewhere."""
    schemas = "mood.low,mood.high,fit.scale_2,fit.scale_5,why.text_box,rate.a,rate.b,why.free_response"
    (tmp_path / "annotations.csv").write_text(
        f"instance_id,user_id,{schemas}\n"
        f"i1,{ANN},true,,2,,so it is,3,4,\ni1,{BEN},,true,,5,,4,4,odd\ni2,{BEN},true,,,,no,1,2,\n"
    )
    with opened(tmp_path / "annotations.csv") as source:
        frame, _ = source.read(source.columns)
    assert source.roles == {"user": "user_id", "item": "instance_id"}
    assert frame.drop("instance_id").rows() == [
        (ANN, "low", "2", "so it is", "3", "4", None),
        (BEN, "high", "5", None, "4", "4", "odd"),
        (BEN, "low", None, "no", "1", "2", None),
    ]
    assert source.questions == ("mood", "fit", "why", "rate.a", "rate.b")
    assert frame.columns[2:] == [*source.questions, "why.free_response"]


def test_an_annotators_number_is_not_guessed_off(tmp_path: Path) -> None:
    files = {name: held for name, held in SAMPLES["inception spans"].files.items() if name.startswith("annotation")}
    path = SAMPLES["inception spans"].write(tmp_path, files)
    with pytest.raises(PeftuError, match="document file 1: is named after nobody") as caught:
        import_file(path, options(SAMPLES["inception spans"]))
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_inception_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cassis", None)
    with pytest.raises(PeftuError, match=r"pip install 'peftu\[inception\]'"):
        import_file(SAMPLES["inception JSON"].write(tmp_path), ImportOptions("mine"))
