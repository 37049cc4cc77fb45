"""Exports of crowd and survey platforms, and JSON with judgements in each item: whole, damaged, and the real files."""

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from damage import claimants, mutated
from typer.testing import CliRunner

from peftu.cli.app import app
from peftu.data.importer.importing import ImportOptions, import_file, table_of
from peftu.data.importer.roles import find_roles
from peftu.data.load import load_task
from peftu.data.readers.reader import opened
from peftu.data.task import tasks
from peftu.errors import PeftuError

REAL = Path("../shared/data")
PRIVATE = "secret"  # begins every user's key and text in the samples; no message may hold it


def table(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def sample(text: str) -> str:
    """Returns CSV of lines with bars between cells; '/' in a cell is a line break."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return table([[cell.strip().replace("/", "\n") for cell in line.split("|")] for line in lines])


MTURK = sample("""
    HITId|Title|WorkerId|AssignmentStatus|SubmitTime|Input.id|Input.tweet|Answer.mood.bad|Answer.mood.good|Reject
    h1|Moods|secretA|Approved|Wed May 15 09:30:00 PDT 2024|7|secret one|false|true|
    h1|Moods|secretB|Submitted|Wed Jan 15 09:30:00 PST 2025|7|secret one|true|false|
    h2|Moods|secretA|Rejected|Wed May 15 09:31:00 PDT 2024|8|secret two|true|true|random
    h2|Moods|secretB|Submitted|Wed May 15 09:31:00 PDT 2024|8|secret two|true|false|random
    h3|Moods|secretB|Approved|Wed May 15 09:32:00 PDT 2024|9|secret three|false|true|
""")
FORM = sample("""
    HITId|WorkerId|AssignmentStatus|Input.text|Answer.taskAnswers
    h1|secretA|Approved|secret one|[{"mood":{"glad":true,"sad":true}}]
    h1|secretB|Approved|secret one|[{"mood":{"glad":false,"sad":true}}]
    h2|secretA|Approved|secret two|[{"mood":{"glad":false,"sad":false}}]
""")
CROWDFLOWER = sample("""
    _unit_id|_golden|_id|_tainted|_trust|_worker_id|_country|mood|mood_gold|mood_gold_reason|tweet
    1|false|11|false|0.9|secretA|NLD|good|||secret one
    1|false|12|false|0.8|secretB|ESP|bad|||secret one
    2|true|13|false|0.9|secretA|NLD|bad|bad||secret two
    3|false|14|true|0.1|secretC|ITA|bad|||secret three
    3|false|15|false|0.9|secretA|NLD|bad|||secret three
""")
CHECKBOXES = CROWDFLOWER.replace("NLD,good", 'NLD,"good\nfair"')
KEYS = "|".join(json.dumps({"ImportId": f"QID{number}"}) for number in range(7))
QUALTRICS = sample(f"""
    Status|Finished|ResponseId|DistributionChannel|Q1|Q2|Q3
    Response Type|Finished|Response ID|Distribution Channel|How good is tea?|How good is rain,/really?|How good is snow?
    {KEYS}
    IP Address|True|secretA|anonymous|Good|Bad|
    IP Address|False|secretB|anonymous|Good||
    Survey Preview|True|secretC|preview|Bad|Bad|Bad
    Spam|True|secretD|anonymous|Bad|Bad|Bad
    IP Address|True|secretE|anonymous|Bad|Bad|Good
""")
LEWIDI = json.dumps(
    {
        "1": {
            "annotation task": "moods",
            "text": {"post": "secret hello", "reply": "secret one"},
            "annotators": "secretA,secretB",
            "annotations": {"secretA": "0", "secretB": "1"},
            "soft_label": {"0": 0.5, "1": 0.5},
            "split": "train",
            "other_info": {"level": 1},
        },
        "2": {
            "text": {"post": "secret hello", "reply": "secret two"},
            "annotators": "secretA",
            "annotations": {"secretA": "1"},
            "split": "dev",
        },
        "3": {
            "text": {"post": "secret", "reply": "secret 3"},
            "annotators": "secretA",
            "annotations": {},
            "split": "test",
        },
    },
    indent=1,
)
COMMAS = json.dumps(
    {
        "1": {"text": "secret one", "annotators": "secretA,secretB", "annotations": "yes,no", "split": "train"},
        "2": {"text": "secret two", "annotators": "secretB", "annotations": "yes", "split": "train"},
        "3": {"text": "secret three", "annotators": "secretA", "annotations": "", "split": "test"},
    }
).replace('"annotators": "secretA", "annotations": ""', '"annotators": "", "annotations": ""')
SEVERAL = json.dumps(
    {
        "1": {"text": {"context": "secret", "statement": "secret one"}, "annotations": {"secretA": "yes,no"}},
        "2": {"text": {"context": "secret", "statement": "secret two"}, "annotations": {"secretA": "no"}},
    }
)
HATEXPLAIN = json.dumps(
    {
        "p1": {
            "post_id": "p1",
            "annotators": [
                {"label": "bad", "annotator_id": "secret1", "target": ["None"]},
                {"label": "good", "annotator_id": "secret2", "target": ["A", "B"]},
            ],
            "rationales": [[0, 1]],
            "post_tokens": ["secret", "one"],
        },
        "p2": {
            "post_id": "p2",
            "annotators": [{"label": "good", "annotator_id": "secret2", "target": []}],
            "rationales": [],
            "post_tokens": ["secret", "two"],
        },
    }
)
NESTED = "\n".join(
    json.dumps({"id": number, "text": f"secret {number}", "annotations": given})
    for number, given in enumerate(
        [[{"label": 1, "user": "secret7"}, {"label": 2, "user": "secret8"}], [{"label": 2, "user": "secret7"}]]
    )
)
Row = tuple[str, str, str]  # user, text, labels with '+' between them
SAMPLES: dict[str, tuple[str, str, list[Row]]] = {
    "mturk": (
        "mturk.csv",
        MTURK,
        [
            ("secretA", "secret one", "good"),
            ("secretB", "secret one", "bad"),
            ("secretB", "secret three", "good"),
        ],
    ),
    "mturk-form": (
        "form.csv",
        FORM,
        [("secretA", "secret one", "glad+sad"), ("secretA", "secret two", "none"), ("secretB", "secret one", "sad")],
    ),
    "crowdflower": (
        "full.csv",
        CROWDFLOWER,
        [
            ("secretA", "secret one", "good"),
            ("secretA", "secret three", "bad"),
            ("secretB", "secret one", "bad"),
        ],
    ),
    "crowdflower-checkboxes": (
        "boxes.csv",
        CHECKBOXES,
        [
            ("secretA", "secret one", "fair+good"),
            ("secretA", "secret three", "bad"),
            ("secretB", "secret one", "bad"),
        ],
    ),
    "lewidi": (
        "MP_train.json",
        LEWIDI,
        [("secretA", "secret one", "0"), ("secretA", "secret two", "1"), ("secretB", "secret one", "1")],
    ),
    "lewidi-commas": (
        "old.json",
        COMMAS,
        [("secretA", "secret one", "yes"), ("secretB", "secret one", "no"), ("secretB", "secret two", "yes")],
    ),
    "lewidi-several": (
        "ven.json",
        SEVERAL,
        [("secretA", "secret one", "no+yes"), ("secretA", "secret two", "no")],
    ),
    "hatexplain": (
        "dataset.json",
        HATEXPLAIN,
        [("secret1", "secret one", "bad"), ("secret2", "secret one", "good"), ("secret2", "secret two", "good")],
    ),
    "nested": (
        "nested.jsonl",
        NESTED,
        [("secret7", "secret 0", "1"), ("secret7", "secret 1", "2"), ("secret8", "secret 0", "2")],
    ),
}
TESTS = {"judgements of test questions": 1, "judgements of contributors who failed tests": 1}
LEFT_OUT = {
    "crowdflower-checkboxes": TESTS,
    "mturk": {"rejected assignments": 2},
    "crowdflower": TESTS,
    "lewidi": {"items without a judgement": 1},
    "lewidi-commas": {"items without a judgement": 1},
}


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("sample", SAMPLES)
def test_one_command(tmp_path: Path, sample: str) -> None:
    name, content, expected = SAMPLES[sample]
    found = import_file(write(tmp_path, name, content), ImportOptions(name="mine"))
    table = load_task("mine")
    assert table.frame.select("user_id", "text", pl.col("target").list.sort().list.join("+")).rows() == expected
    assert table.notes == LEFT_OUT.get(sample, {})
    assert found["kind"] == ("multi" if any("+" in labels for _, _, labels in expected) else "single")


def test_what_else_comes_in(tmp_path: Path) -> None:
    import_file(write(tmp_path, "mturk.csv", MTURK), ImportOptions(name="mine"))
    frame = load_task("mine").frame
    assert sorted(set(frame["item_id"])) == ["7", "9"]  # Input.id
    assert frame["time"].to_list() == [1715790600.0, 1736962200.0, 1715790720.0]
    import_file(write(tmp_path, "lewidi.json", LEWIDI), ImportOptions(name="other"))
    frame = load_task("other").frame
    assert set(frame["context"]) == {"secret hello"}
    assert [json.loads(meta)["split"] for meta in frame["meta"]] == ["train", "val", "train"]


def test_places(tmp_path: Path) -> None:
    with opened(write(tmp_path, "mturk.csv", MTURK)) as source:
        assert list(source.places or ()) == ["row 1", "row 2", "row 5"]
    with opened(write(tmp_path, "lewidi.json", LEWIDI)) as source:
        assert list(source.places or ())[1:] == ["item 1, judgement 2", "item 2, judgement 1"]


def test_qualtrics(tmp_path: Path) -> None:
    with opened(write(tmp_path, "survey.csv", QUALTRICS)) as source:
        assert source.roles == {"user": "ResponseId"}
        assert source.titles["Q2"] == "How good is rain,\nreally?"
        assert source.left_out == {
            "previews of the survey": 1,
            "responses marked as spam": 1,
            "unfinished responses": 1,
        }
        frame, _ = source.read(["ResponseId", "Q1", "Q3"])
        assert list(source.places or ()) == ["row 3", "row 7"]
    assert frame.rows() == [("secretA", "Good", ""), ("secretE", "Bad", "Good")]


def test_several_questions(tmp_path: Path) -> None:
    content = MTURK.replace("Answer.mood.bad", "Answer.first").replace("Answer.mood.good", "Answer.second")
    with pytest.raises(PeftuError, match=r"several questions \(Answer.first, Answer.second\) — pass --label COLUMN"):
        import_file(write(tmp_path, "mturk.csv", content))


@pytest.mark.parametrize("sample", [*SAMPLES, "qualtrics"])
def test_one_reader_claims_a_file(tmp_path: Path, sample: str) -> None:
    name, content, _ = {**SAMPLES, "qualtrics": ("survey.csv", QUALTRICS, [])}[sample]
    claiming = claimants(write(tmp_path, name, content))
    assert claiming == ["items" if name.endswith("json") else sample.partition("-")[0]]


def test_commands_of_the_page(tmp_path: Path) -> None:
    """Each command of docs/data.md for a sample here runs as it stands there."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    commands = [shlex.split(command) for command in re.findall(r"`peftu (data import [^`]+)`", page)]
    contents = {name: content for name, content, _ in SAMPLES.values()} | {"survey.csv": QUALTRICS}
    ran = set()
    for words in commands:
        if words[2] in contents:
            path = write(tmp_path, words[2], contents[words[2]])
            run = CliRunner().invoke(app, ["data", "import", str(path), *words[3:], "--name", "mine", "--replace"])
            assert run.exit_code == 0, run.exception
            ran.add(words[2])
    assert {"mturk.csv", "full.csv", "survey.csv", "MP_train.json", "dataset.json"} <= ran


def damaged(name: str, content: str) -> Iterator[str]:
    if name.endswith("json"):
        yield from (json.dumps(document) for document in mutated(json.loads(content)))
    elif name.endswith("jsonl"):
        for document in mutated([json.loads(line) for line in content.splitlines()]):
            yield "\n".join(map(json.dumps, document))
    else:
        rows = list(csv.reader(io.StringIO(content)))
        for row in range(len(rows)):
            for column in range(len(rows[row])):
                copy = deepcopy(rows)
                copy[row][column] = ("", "x", "[]", '{"a"')[(row + column) % 4]
                yield table(copy)
            yield table([cells for number, cells in enumerate(rows) if number != row])


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])  # 7: every kind of damage in turn
@pytest.mark.parametrize("sample", SAMPLES)
def test_damaged_files_are_read_or_told(tmp_path: Path, sample: str, step: int) -> None:
    name, content, _ = SAMPLES[sample]
    for damage in islice(damaged(name, content), 0, None, step):
        said = ""
        try:
            with opened(write(tmp_path, name, damage)) as source:
                roles = find_roles(source, {})
                table_of(source.read(roles.columns)[0], roles, ImportOptions(name="mine"), source)
        except PeftuError as error:
            said = str(error).replace(str(tmp_path), "")
        assert PRIVATE not in said
        assert "\n" not in said


@pytest.mark.parametrize("task", ["hatexplain", pytest.param("multipico", marks=pytest.mark.slow)])
def test_real_files(task: str) -> None:
    folder = REAL / task
    if not folder.is_dir():
        pytest.skip("the real files are not here")
    import_file(folder, ImportOptions(name="mine"))
    words = {"0": "Non-ironic", "1": "Ironic"}
    label = pl.col("target").list.first().replace(words).alias("label")
    columns = ["user_id", "item_id", "text", "context"]
    ours = load_task("mine").frame.select(*columns, label).sort("user_id", "item_id")
    loaded = load_task(task, folder).frame.select(*columns, label).sort("user_id", "item_id")
    assert tasks.get(task).card.kind == "single"
    assert ours.equals(loaded)
