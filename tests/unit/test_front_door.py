"""What `import peftu` offers: loaded when used, checked like a file or a flag, shown without being obeyed."""

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import peftu
from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.synthetic import SyntheticTask, synthetic_table
from peftu.data.task import tasks
from peftu.results import RunRecord, finish_folder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
ROWS = {"who": ["a", "a", "b", "b"], "what": ["x", "y", "x", "y"], "said": ["no", "yes", "no", "no"]}
COLUMNS = {"user": "who", "text": "what", "label": "said"}


def pandas_frame(rows: dict[str, Any]) -> Any:
    return pytest.importorskip("pandas", reason="pandas is not installed").DataFrame(rows)


frames = pytest.mark.parametrize("frame", [pl.DataFrame, pandas_frame], ids=["polars", "pandas"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder with a cache of its own."""
    home = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTU_CACHE", str(home / "cache"))
        patch.chdir(home)
        yield home


@pytest.fixture(scope="module")
def page(place: Path) -> dict[str, Any]:
    """What the names of docs/python.md stand for, after all of its blocks were run; 'printed' is their output."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    code = place / "page.py"
    code.write_text("\n".join(blocks), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = runpy.run_path(str(code))
    return {**names, "code": code.read_text(encoding="utf-8"), "printed": printed.getvalue().splitlines()}


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, peftu; dir(peftu); print(sorted({'torch', 'polars', 'transformers', 'rich'} & set(sys.modules)))"
    )
    code += "; peftu.load_task, peftu.from_frame, peftu.open, peftu.Run; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.split("\n")[:2] == ["[]", "False"]


def test_what_is_offered_is_there() -> None:
    assert all(getattr(peftu, name) for name in (*peftu.__all__, "open"))
    assert {*peftu.__all__, "open"} <= set(dir(peftu))
    with pytest.raises(AttributeError, match="no attribute 'train_everyone'"):
        peftu.train_everyone  # noqa: B018


class TestFrames:
    @frames
    def test_a_frame_is_the_table_that_its_file_is(self, frame: Callable[..., Any], tmp_path: Path) -> None:
        table = peftu.from_frame(frame(ROWS), **COLUMNS)
        pl.DataFrame(ROWS).write_csv(tmp_path / "mine.csv")
        columns = {"user": "who", "text": "what"}
        assert (
            table.hash == import_file(tmp_path / "mine.csv", ImportOptions(columns=columns, labels=("said",)))["hash"]
        )
        assert (table.card.name, table.card.kind, table.card.labels) == ("frame", "single", ("no", "yes"))

    def test_pandas_and_polars_agree_on_numbers_lists_times_and_gaps(self) -> None:
        rows = {"who": [1, 1, 2], "what": ["x", "y", "x"], "said": [["a", "b"], ["b"], ["a"]], "to": ["c", None, "c"]}
        rows["at"] = [0.5, None, 2.0]
        asked = {**COLUMNS, "context": "to", "time": "at"}
        tables = [peftu.from_frame(frame(rows), **asked) for frame in (pl.DataFrame, pandas_frame)]
        assert tables[0].hash == tables[1].hash
        assert tables[0].card.kind == "multi"
        assert tables[0].frame["user_id"].to_list() == ["1", "1", "2"]
        assert set(tables[0].frame["time"]) == {0.5, None, 2.0}

    def test_only_columns_that_are_named_are_read(self) -> None:
        more = {"context": ["z"] * 4, "time": ["late"] * 4, "split": ["train"] * 4, "item": ["i"] * 4}
        assert peftu.from_frame(pl.DataFrame({**ROWS, **more}), **COLUMNS).hash == (
            peftu.from_frame(pl.DataFrame(ROWS), **COLUMNS).hash
        )

    @frames
    @pytest.mark.parametrize(
        ("rows", "asked", "complaint"),
        [
            ({"who": ["a", None, None, "b"]}, {}, "frame: row 2: user is empty — fill it in.* 1 more row is wrong"),
            ({"what": ["x", " ", "x", "y"]}, {}, "frame: row 2: text is empty"),
            ({}, {"text": "wat"}, "frame: text: has no column 'wat' — did you mean 'what'"),
            ({}, {"text": "who"}, "column 'who' is given twice"),
            ({}, {"labels": ["no", "maybe"]}, "frame: row 2: label 'yes' is not in labels — known: maybe, no"),
            ({}, {"labels": "no"}, "labels: is one text — pass a list"),
            ({}, {"kind": "ordinall"}, "^kind: unknown kind 'ordinall' — did you mean 'ordinal'"),
            ({}, {"kind": "ordinal"}, "frame: kind='ordinal': labels are no, yes — pass labels with them in order"),
            ({"said": ["no"] * 4}, {}, "column 'said': every row has the label 'no'"),
            ({"what": ["x"] * 4}, {}, "with another label — keep one, or pass item='COLUMN'"),
            ({}, {"name": "My Data"}, "^name 'My Data': use small letters"),
            ({}, {"words": ["n"]}, "^words: give 2 different words"),
            ({"what": [["x"], ["y"], ["x"], ["y"]]}, {}, "column 'what' holds lists or objects"),
            ({name: [] for name in ROWS}, {}, "frame: holds no rows"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_mend(
        self, frame: Callable[..., Any], rows: dict[str, Any], asked: dict[str, Any], complaint: str
    ) -> None:
        with pytest.raises(peftu.PeftuError, match=complaint) as caught:
            peftu.from_frame(frame({**ROWS, **rows}), **{**COLUMNS, **asked})
        assert len(str(caught.value).splitlines()) == 1
        assert "--" not in str(caught.value)

    def test_other_things_than_frames_are_refused(self) -> None:
        with pytest.raises(peftu.PeftuError, match="got dict — pass a pandas or polars DataFrame"):
            peftu.from_frame(ROWS, **COLUMNS)
        mixed = pandas_frame({**ROWS, "what": ["x", {"y": 1}, 3, "\ud800"]})
        with pytest.raises(peftu.PeftuError, match="column 'what' holds values of several types"):
            peftu.from_frame(mixed, **COLUMNS)


class TestCompare:
    def test_every_block_of_the_page_runs_and_prints_what_it_says(self, page: dict[str, Any]) -> None:
        expected = re.findall(r"print\(.+\)  # (.+)", page["code"])
        assert len(expected) >= 4
        assert set(expected) <= set(page["printed"])
        assert page["page"].read_text(encoding="utf-8").startswith("<!doctype html>")
        assert page["few"].path.parent == Path("runs")

    def test_a_table_by_name_and_the_same_table_give_the_same_run(self, place: Path) -> None:
        (place / "raw").mkdir()
        (place / "raw" / "none.txt").write_text("nothing is read\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "_loaded", {**tasks._loaded, "made-up": SyntheticTask})
            table = peftu.load_task("made-up", "raw", users=5)
            assert table.options == {"users": 5, "items": 30}
            asked: dict[str, Any] = {"methods": "global-majority,user-majority", "epochs": 3}
            named = peftu.compare("made-up", raw="raw", task_options={"users": 5}, **asked)
            given = peftu.compare(table, **asked, out="given")
        assert named.record.hashes == given.record.hashes
        assert named.predictions().equals(given.predictions())
        assert given.record.spec["task_options"] == table.options

    @pytest.mark.parametrize(
        ("asked", "complaint"),
        [
            ({"epocs": 1}, "unknown setting 'epocs' — did you mean 'epochs'"),
            ({"split": {"kk": 3}}, "unknown setting 'split.kk'"),
            ({"device": "tpu"}, "device: is none of auto, cpu, cuda, cuda:N, mps (got 'tpu')"),
            ({"dtype": "bfloat"}, "dtype: unknown value 'bfloat' — did you mean 'bfloat16'"),
            ({"task_options": {}}, "pass raw files and options to load_task"),
            ({"methods": []}, "names no method"),
            ({"methods": "lorra"}, "unknown method 'lorra'"),
            ({"seeds": 0}, "seeds: is 0 — give a number from 1 to 1000"),
            ({"regime": "unseen"}, "split.regime: unknown value 'unseen'"),
            ({"region": "deep=1"}, "region: unknown setting 'deep'"),
            ({"preset": "paperr"}, "preset 'paperr' is not known — did you mean 'paper'"),
        ],
    )
    def test_what_cannot_be_run_is_told_before_anything_is_made(
        self, asked: dict[str, Any], complaint: str, tmp_path: Path
    ) -> None:
        with pytest.raises(peftu.PeftuError, match=re.escape(complaint)):
            peftu.compare(synthetic_table(), **{"methods": "user-majority", "out": tmp_path / "run", **asked})
        assert not (tmp_path / "run").exists()


class TestRun:
    def test_the_leaderboard_has_the_record_s_numbers_best_first(self, page: dict[str, Any]) -> None:
        run = page["run"]
        board = run.leaderboard()
        assert board["mean"].to_list() == sorted((result.mean for result in run.record.methods), reverse=True)
        best = next(result for result in run.record.methods if result.method == board["method"][0])
        assert (
            board.row(0, named=True).items()
            >= {
                "gain": best.gain["user-majority"].mean,
                "low": best.ci[0],
                "decision": "unclear",  # six users are too few
                "helped": best.helped,
            }.items()
        )
        habit = board.row(by_predicate=pl.col("method") == "user-majority", named=True)
        assert (habit["gain"], habit["decision"]) == (None, None)

    def test_the_report_is_drawn_where_it_is_missing_and_spares_other_files(
        self, page: dict[str, Any], tmp_path: Path
    ) -> None:
        shutil.copytree(page["run"].path, tmp_path / "run")
        run = peftu.open(tmp_path / "run")
        drawn = run.report()
        drawn.unlink()
        assert run.report(tmp_path).read_bytes() == drawn.read_bytes()
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(peftu.PeftuError, match=r"notes\.txt: is there already and is no report"):
            run.report(tmp_path / "notes.txt")

    def test_a_damaged_run_is_refused(self, page: dict[str, Any], tmp_path: Path) -> None:
        shutil.copytree(page["run"].path, tmp_path / "run")
        (tmp_path / "run" / "user_scores.parquet").write_bytes(b"")
        with pytest.raises(peftu.PeftuError, match="differs from the sha256"):
            peftu.open(tmp_path / "run")

    def test_in_a_notebook_names_are_shown_and_not_obeyed_and_no_user_is_named(
        self, page: dict[str, Any], tmp_path: Path
    ) -> None:
        shutil.copytree(page["run"].path, tmp_path / "run")
        record: RunRecord = page["run"].record
        task = record.task.model_copy(update={"title": "<script>alert(1)</script>\x1b[31m"})
        methods = tuple(one.model_copy(update={"base": "<img src=x onerror='x'>"}) for one in record.methods)
        finish_folder(tmp_path / "run", record.model_copy(update={"task": task, "methods": methods}))
        html = peftu.open(tmp_path / "run")._repr_html_()
        assert set(re.findall(r"<(\w+)", html)) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert "&lt;script&gt;" in html
        assert "\x1b" not in html
        users = page["run"].predictions()["user_id"].unique()
        assert not any(re.search(rf"\b{user}\b", html) for user in users)


def test_the_notebook_runs_and_holds_no_output(place: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    (place / "notebook.py").write_text("\n".join("".join(cell["source"]) for cell in cells), encoding="utf-8")
    names = runpy.run_path(str(place / "notebook.py"))
    board = names["run"].leaderboard()
    assert board["method"][0].startswith("mixed-head")
    assert board["decision"][0] == "better"  # as the text says it can be told


class TestFitted:
    """What was fitted, from Python."""

    def test_a_researcher_s_path(self, page: dict[str, Any], place: Path) -> None:
        """A frame in, a comparison, a newcomer, answers, a user gone, a folder that is opened again."""
        task, texts = page["task"], [f"Note {n} on {page['topics'][n % 5]}." for n in range(10)]
        run = peftu.compare(task, ["global-majority", "user-majority", "mixed-head[features=tfidf]"], out="runs/path")
        assert run.leaderboard().height == 3
        fitted = run.fitted("mixed-head[features=tfidf]")
        before = fitted.predict("a1", texts)
        fitted.enrol("new", [(text, "likes" if place % 5 < 2 else "dislikes") for place, text in enumerate(texts)])
        assert fitted.predict("new", texts)["label"].to_list() == ["likes", "likes", *["dislikes"] * 3] * 2
        assert fitted.predict("a1", texts).equals(before)
        fitted.forget("a0")
        again = peftu.open("runs/path").fitted("mixed-head[features=tfidf]")
        assert again.users == ("a1", "a2", "a3", "a4", "a5", "new")
        assert again.predict("a1", texts).equals(before)
        assert peftu.load(again.save(place / "alone")).predict("new", texts).equals(fitted.predict("new", texts))

    def test_what_a_run_fitted_is_what_it_predicted(self, page: dict[str, Any]) -> None:
        run = page["run"]
        for system in run.record.methods:
            lines = run.predictions().filter(method=system.method, seed=1)
            items = page["task"].frame.select("user_id", "item_id", "text")
            lines = lines.join(items, on=["user_id", "item_id"])
            fitted = run.fitted(system.method, seed=1)
            if system.name == "mixed-head":  # users who were forgotten since are not known
                lines = lines.filter(pl.col("user_id").is_in(fitted.users))
            said = fitted.predict_many(lines.select("text", user="user_id"))
            assert said["label"].to_list() == lines["predicted"].list.first().to_list()

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda f: f.predict("nobody", ["x"]), "the asked user has no module here"),
            (lambda f: f.predict_many(pl.DataFrame({"who": ["a1"], "text": ["x"]})), "no column 'user'"),
            (lambda f: f.predict_many(pl.DataFrame({"user": ["a1", None], "text": ["x", "y"]})), "is empty in row 2"),
            (lambda f: f.predict_many(pandas_frame({"user": ["a1", None], "text": ["x", "y"]})), "is empty in row 2"),
            (lambda f: f.predict_many(pandas_frame({"user": ["a1"], "words": ["x"]})), "no column 'text'"),
            (lambda f: f.predict_many({"user": ["a1"], "text": ["x"]}), "got dict — pass a pandas or polars DataFrame"),
            (lambda f: f.enrol("a1", [("x", "hates")]), "example 1: unknown label 'hates'"),
            (lambda f: f.enrol("a1", []), "needs at least 1 labelled text, got 0"),
            (lambda f: f.enrol("", [("x", "likes")]), "the user's key is empty"),
            (lambda f: f.forget("nobody"), "the asked user is not known here"),
            (lambda f: f.export("a1", "out"), "has no module of a kind that peft knows"),
            (lambda f: f.write(["a1"], []), "chooses among labels"),
        ],
    )
    def test_what_cannot_be_done_is_told(self, page: dict[str, Any], call: Callable[[Any], Any], error: str) -> None:
        fitted = peftu.fit(page["task"], "user-majority")
        before = fitted.state().tensors["table"].copy()
        with pytest.raises(peftu.PeftuError, match=re.escape(error)) as told:
            call(fitted)
        assert "nobody" not in str(told.value)
        assert (fitted.state().tensors["table"] == before).all()

    def test_a_newer_or_damaged_folder_is_refused(self, page: dict[str, Any], place: Path) -> None:
        folder = peftu.fit(page["task"], "user-majority").save(place / "newer")
        about = json.loads((folder / "fitted.json").read_text())
        (folder / "fitted.json").write_text(json.dumps(about | {"format": 99}))
        with pytest.raises(peftu.PeftuError, match="format 99 is newer than this peftu's 1"):
            peftu.load(folder)
        (folder / "fitted.json").write_text("{")
        with pytest.raises(peftu.PeftuError, match="is damaged"):
            peftu.load(folder)
        with pytest.raises(peftu.PeftuError, match="holds no fitted method"):
            peftu.load(place)
