"""Predictions files of any system: what is read, what is refused, and that no torch is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from peftu.errors import PeftuError
from peftu.judge import folder
from peftu.judge.coldstart import cold_start
from peftu.judge.merge import merge
from peftu.judge.score import score_file
from peftu.judge.submission import ScoreOptions, read_submission
from peftu.metrics import PREDICTIONS
from peftu.results import Hashes, RunRecord, load_run

PLAIN = ScoreOptions({})
Row = dict[str, object]


def rows(users: int = 12, items: int = 8, *, seed: int = 0, skill: float = 0.8) -> list[Row]:
    rng = np.random.default_rng(seed)
    gold = np.random.default_rng(7).integers(0, 2, (users, items))
    return [
        {
            "user": f"u{user}",
            "item": f"i{item}",
            "target": ("no", "yes")[gold[user, item]],
            "output": ("no", "yes")[gold[user, item] if rng.random() < skill else 1 - gold[user, item]],
        }
        for user in range(users)
        for item in range(items)
    ]


def write(path: Path, table: list[Row]) -> Path:
    frame = pl.DataFrame(table, infer_schema_length=None)
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".tsv":
            frame.write_csv(path, separator="\t")
        case ".jsonl":
            frame.write_ndjson(path)
        case _:
            frame.write_parquet(path)
    return path


def test_every_format_gives_the_same_scores(tmp_path: Path) -> None:
    found = []
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = write(tmp_path / f"mine{suffix}", rows())
        record, scores, judgement = score_file(path, tmp_path / f"out{suffix}", PLAIN)
        found.append(scores)
        assert (record.task.name, record.users, [method.method for method in record.methods]) == ("mine", 12, ["mine"])
        assert judgement.scores[0].scores["accuracy"].mean == record.methods[0].mean
        run = load_run(tmp_path / f"out{suffix}")
        assert run.predictions().columns == list(PREDICTIONS)
        assert "judgement.json" in {file.name for file in run.record.files}
    assert all(frame.equals(found[0]) for frame in found[1:])
    right = np.mean([row["target"] == row["output"] for row in rows()])
    assert found[0]["accuracy"].mean() == pytest.approx(right)


def test_training_rows_put_the_majorities_on_the_board(tmp_path: Path) -> None:
    train = [
        {"user": f"u{user}", "item": f"t{item}", "target": label, "output": None, "part": "train"}
        for user in range(12)
        for item, label in enumerate(("no", "no", "yes") if user % 3 else ("yes",))
    ]
    tests = [row | {"part": "test"} for row in rows()]
    record, scores, _ = score_file(write(tmp_path / "a.csv", train + tests), tmp_path / "out", PLAIN)
    assert [method.method for method in record.methods] == ["global-majority", "user-majority", "a"]
    assert scores["n_train"].unique().sort().to_list() == [1, 3]
    said = load_run(tmp_path / "out").predictions().filter(pl.col("method") == "user-majority")
    always = dict(said.group_by("user_id").agg(pl.col("predicted").list.first().first()).iter_rows())
    assert always == {f"u{user}": "no" if user % 3 else "yes" for user in range(12)}
    assert record.methods[2].gain["user-majority"].ci is not None


def test_probabilities_label_sets_and_free_text(tmp_path: Path) -> None:
    chances = [row | {"probabilities": json.dumps({"yes": 0.75, "no": 0.25})} for row in rows()]
    _, scores, _ = score_file(write(tmp_path / "p.csv", chances), tmp_path / "p", PLAIN)
    share = np.mean([row["target"] == "yes" for row in chances])
    assert scores["brier"].mean() == pytest.approx(share * 0.25**2 + (1 - share) * 0.75**2)
    several = [{"user": f"u{n}", "item": "i", "target": "a|b", "output": "a" if n else "b|a"} for n in range(5)]
    _, scores, _ = score_file(write(tmp_path / "m.csv", several), tmp_path / "m", ScoreOptions({}, kind="multi"))
    assert scores["jaccard"].to_list() == [1.0, 0.5, 0.5, 0.5, 0.5]
    free = [{"user": f"u{n}", "item": "i", "target": "a good day", "output": f"good day {n}"} for n in range(5)]
    record, scores, _ = score_file(write(tmp_path / "t.jsonl", free), tmp_path / "t", ScoreOptions({}, kind="text"))
    assert record.task.main_metric == "rouge_l"
    assert scores["rouge_1"].to_list() == [pytest.approx(2 / 3)] * 5
    assert scores["distinctness"].to_list() == [pytest.approx(1 / 3)] * 5


def test_a_truth_of_its_own_and_rows_nobody_answered(tmp_path: Path) -> None:
    table = rows()
    truth = write(tmp_path / "truth.csv", [{key: row[key] for key in ("user", "item", "target")} for row in table])
    answers = [{key: row[key] for key in ("user", "item", "output")} for row in table]
    path = write(tmp_path / "mine.csv", answers[:-10])
    record, _, _ = score_file(path, tmp_path / "out", ScoreOptions({}, truth=truth))
    assert (record.methods[0].scored, record.methods[0].unscored) == (86, 10)
    strange = write(tmp_path / "more.csv", [*answers, {"user": "new", "item": "i0", "output": "no"}])
    with pytest.raises(PeftuError, match=r"answers for 1 users that .*truth\.csv lacks"):
        read_submission(strange, ScoreOptions({}, truth=truth))
    strange = write(tmp_path / "items.csv", [*answers, {"user": "u0", "item": "new", "output": "no"}])
    with pytest.raises(PeftuError, match="1 answers to items that"):
        read_submission(strange, ScoreOptions({}, truth=truth))


def test_a_user_with_one_test_row_counts_and_is_told(tmp_path: Path) -> None:
    table = [*rows(), {"user": "alone", "item": "i0", "target": "no", "output": "no"}]
    record, _, judgement = score_file(write(tmp_path / "a.csv", table), tmp_path / "out", PLAIN)
    assert (record.users, record.methods[0].users, judgement.one_item_users) == (13, 13, 1)
    assert record.warnings == ("1 users have one test row: they count, and widen",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [{k: v for k, v in r.items() if k != "user"} for r in t], "cannot tell which column is the user"),
        (lambda t: [*t, t[3]], "row 4 and row 97 are of one user and item"),
        (lambda t: [{**t[0], "user": ""}, *t], "row 1: user is empty"),
        (lambda t: [{**t[0], "item": "new", "target": None}, *t], "row 1: target has not exactly one label"),
        (lambda t: [r | {"part": "later"} for r in t], "row 1: part is not usable — write one of train, val, test"),
        (lambda t: [r | {"part": "val"} for r in t], "no row of part 'test'"),
        (lambda t: [r | {"seed": "x"} for r in t], "row 1: seed is not usable"),
        (lambda t: [r | {"probabilities": "[0.5, 0.3]"} for r in t], "row 1: probabilities add up to 0.8, not 1"),
        (lambda t: [r | {"probabilities": "[1.5, -0.5]"} for r in t], "row 1: a probability is not between"),
        (lambda t: [r | {"probabilities": "[1.0]"} for r in t], "row 1: 1 probabilities for 2 labels"),
        (lambda t: [r | {"probabilities": "maybe"} for r in t], "row 1: probabilities are no list of numbers"),
        (lambda t: [r | {"probabilities": '{"maybe": 1}'} for r in t], "row 1: probabilities name 'maybe'"),
        (lambda t: [r | {"target": "no", "output": "no"} for r in t], "only the label 'no' occurs"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, change: object, message: str) -> None:
    path = write(tmp_path / "mine.csv", change(rows()))  # type: ignore[operator]
    with pytest.raises(PeftuError, match=message) as caught:
        read_submission(path, PLAIN)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "how", "message"),
    [
        ([], PLAIN, "holds no rows"),
        ([{"user": "u0", "item": "1", "target": [], "output": []}], ScoreOptions({}, kind="multi"), "no label occurs"),
        ([{"user": "u0", "item": "1", "target": "a", "output": "b"}], ScoreOptions(labels=("a", "a", "b")), "'a' st"),
        ([{"user": ["u0"], "item": "1", "target": "a", "output": "b"}], PLAIN, "column 'user' holds lists or objects"),
        ([{"user": {"n": "u0"}, "item": "1", "target": "a", "output": "b"}], PLAIN, "column 'user' holds lists or ob"),
        ([{"user": "u0", "item": "1", "target": "a", "output": "b", "part": ["test"]}], PLAIN, "column 'part' holds l"),
    ],
)  # fmt: skip
def test_tables_of_the_wrong_form_are_refused_in_one_line(
    tmp_path: Path, table: list[Row], how: ScoreOptions, message: str
) -> None:
    path = tmp_path / "mine.parquet"
    names = ("user", "item", "target", "output")
    pl.DataFrame(table, schema=None if table else dict.fromkeys(names, pl.String)).write_parquet(path)
    with pytest.raises(PeftuError, match=message) as caught:
        score_file(path, tmp_path / "out", how)
    assert "u0" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_methods_of_other_users_are_not_compared(tmp_path: Path) -> None:
    table = [row | {"method": name} for name in "ab" for row in rows() if name == "a" or row["user"] != "u3"]
    with pytest.raises(PeftuError, match="1 users have test rows under some methods only") as caught:
        score_file(write(tmp_path / "mine.csv", table), tmp_path / "out", PLAIN)
    assert "u3" not in str(caught.value)


@pytest.mark.parametrize("vector", ["x", ["x", "y"], [1.0, 2.0, 3.0], [[1.0], [2.0]]])
def test_vectors_that_cannot_be_compared_are_refused_in_one_line(tmp_path: Path, vector: object) -> None:
    table: list[Row] = [row | {"target_vector": [1.0, 2.0], "predicted_vector": vector} for row in rows(2, 2)]
    path = tmp_path / "mine.parquet"
    pl.DataFrame(table).write_parquet(path)
    with pytest.raises(PeftuError, match="vector") as caught:
        score_file(path, tmp_path / "out", ScoreOptions({}, kind="text"))
    assert "\n" not in str(caught.value)


def test_no_label_in_a_csv_of_several_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", [{"user": "u0", "item": "1", "target": "", "output": "b"}])
    with pytest.raises(PeftuError, match=r"row 1: target is empty — .*jsonl"):
        read_submission(path, ScoreOptions({}, kind="multi", labels=("a", "b")))


def test_files_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user": 1}\n{broken')
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "a.txt").write_text("no")
    for name, message in (("a.jsonl", "row 2: is not valid JSON"), ("a.parquet", "no delimiter found"),
                          ("a.txt", "no delimiter found"), ("b.csv", "cannot be read — check the path")):  # fmt: skip
        with pytest.raises(PeftuError, match=message):
            read_submission(tmp_path / name, PLAIN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("years of work")
    with pytest.raises(PeftuError, match=r"holds 'thesis\.doc'"):
        score_file(write(tmp_path / "c.csv", rows()), tmp_path / "out", PLAIN)
    with pytest.raises(PeftuError, match=r"c\.csv/out: cannot be written"):
        score_file(tmp_path / "c.csv", tmp_path / "c.csv" / "out", PLAIN)


def board(tmp_path: Path, name: str, **how: object) -> Path:
    table = [row | {"method": name.split("-")[0]} for row in rows(**how)]  # type: ignore[arg-type]
    score_file(write(tmp_path / f"{name}.csv", table), tmp_path / name, ScoreOptions({}, name="data"))
    return tmp_path / name


def test_boards_of_one_split_are_merged(tmp_path: Path) -> None:
    runs = [board(tmp_path, "a", seed=1), board(tmp_path, "b", seed=2, skill=0.6), board(tmp_path, "a-2", seed=3)]
    record, scores, _ = merge([*runs, runs[0]], tmp_path / "all")
    assert [method.method for method in record.methods] == ["a", "b", "a[run=a-2]"]
    alone = [RunRecord.read(run).methods[0].mean for run in runs]
    assert [method.mean for method in record.methods] == alone
    assert scores["user_id"].n_unique() == 12
    assert load_run(tmp_path / "all").record == record


def test_runs_of_one_folder_name_stay_apart(tmp_path: Path) -> None:
    runs = []
    for place, seed in enumerate((1, 2, 3, 3)):
        (tmp_path / f"{place}").mkdir()
        path = write(tmp_path / f"{place}.csv", [row | {"method": "m"} for row in rows(seed=seed)])
        score_file(path, tmp_path / f"{place}" / "run", ScoreOptions({}, name="data"))
        runs.append(tmp_path / f"{place}" / "run")
    record, _, _ = merge(runs, tmp_path / "all")
    assert [method.method for method in record.methods] == ["m", "m[run=run]", "m[run=run 2]"]
    before = (runs[0] / "run.json").read_bytes()
    for make in (merge, cold_start):
        with pytest.raises(PeftuError, match="is one of the runs"):
            make(runs, tmp_path / "1" / ".." / "0" / "run")
    assert (runs[0] / "run.json").read_bytes() == before


def test_free_answers_that_differ_in_likelihood_only_are_two_methods(tmp_path: Path) -> None:
    runs = []
    for name, loss in (("a", -8.0), ("b", -9.0), ("c", -8.0)):
        submission = read_submission(
            write(tmp_path / f"{name}.csv", [row | {"output": ""} for row in rows()]), ScoreOptions({}, kind="text")
        )
        scores = pl.Series([[loss, 4.0]] * len(submission.predictions), dtype=PREDICTIONS["scores"])
        predictions = submission.predictions.with_columns(scores=scores, method=pl.lit("lora"))
        hashes = Hashes(data="sha256:0", splits={"0": folder.tests_hash(predictions, 0)})
        card = submission.card.model_copy(update={"main_metric": "perplexity", "name": "letters"})
        folder.write_board(folder.FolderContents(predictions, card, "within-user", hashes, {}), tmp_path / name)
        runs.append(tmp_path / name)
    record, _, _ = merge(runs, tmp_path / "all")
    found = {method.method: method.mean for method in record.methods}
    assert found == {"lora": pytest.approx(np.exp(2)), "lora[run=b]": pytest.approx(np.exp(9 / 4))}


def test_different_splits_are_refused_by_name(tmp_path: Path) -> None:
    runs = [board(tmp_path, "a"), board(tmp_path, "b", items=7)]
    with pytest.raises(PeftuError, match=r"a and .*b have different splits at seed 0 \(sha256:\w+… and sha256:\w+…\)"):
        merge(runs, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    with pytest.raises(PeftuError, match="no run was given"):
        merge([], tmp_path / "all")


def test_the_command_line_scores_without_torch(tmp_path: Path) -> None:
    """As after a bare ``pip install peftu``: no torch, no transformers, nothing to draw a report with."""
    path = write(tmp_path / "mine.csv", rows())
    code = (
        "import sys, importlib.machinery\n"
        "gone = {'torch', 'transformers', 'altair', 'jinja2', 'vl_convert', 'peft', 'safetensors'}\n"
        "class Bare(importlib.machinery.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, *more):\n"
        "        return None if name.partition('.')[0] in gone else super().find_spec(name, *more)\n"
        "sys.meta_path = [Bare if f is importlib.machinery.PathFinder else f for f in sys.meta_path]\n"
        "from peftu.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "print('---', file=sys.stderr, flush=True)\n"
        "sys.argv[2] = 'none.csv'\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "score", str(path), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    told, _, refusal = done.stderr.partition("---\n")
    said = json.loads(done.stdout)
    assert (said["users"], said["report"], said["methods"][0]["method"]) == (12, None, "mine")
    assert "pip install 'peftu[report]'" in told
    assert (done.returncode, refusal.count("\n")) == (2, 1), done.stderr
