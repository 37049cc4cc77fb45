"""Predictions as systems write them: the readers and the rule of labels are those of import."""

import json
from pathlib import Path
from typing import Any

import pytest

from peftu.errors import PeftuError
from peftu.judge.score import score_file
from peftu.judge.submission import ScoreOptions, read_submission
from peftu.results import RunRecord

USERS = ("u1", "u1", "u2", "u2")


def table(
    targets: list[Any], outputs: list[Any], users: tuple[str, ...] = USERS, **more: list[Any]
) -> list[dict[str, Any]]:
    rows = zip(users, targets, outputs, *more.values(), strict=False)
    return [
        {"user": user, "item": f"i{n}", "target": target, "output": output, **dict(zip(more, others, strict=True))}
        for n, (user, target, output, *others) in enumerate(rows)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        cells = [[str(cell).replace('"', '""') for cell in row.values()] for row in rows]
        lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row) for row in cells)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def scored(path: Path, **options: Any) -> tuple[RunRecord, dict[str, float]]:
    record, _, judgement = score_file(path, path.parent / "out", ScoreOptions(**options), replace=True)
    return record, {name: score.mean for name, score in judgement.scores[0].scores.items()}


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(PeftuError) as caught:
        read_submission(path, ScoreOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_numbers_are_labels_by_their_value(tmp_path: Path, suffix: str) -> None:
    rows = table(["1", "0", "0", "1"], ["1", "1.0", "0", "1.0"])
    assert scored(write(tmp_path / f"mine{suffix}", rows))[1]["accuracy"] == 0.75
    mixed = table([1, 0, 0, 1], ["1", 1.0, "0.0", True])
    record, scores = scored(write(tmp_path / "mixed.jsonl", mixed))
    assert scores["accuracy"] == 0.5
    assert any("1 outputs are labels that nobody gave, and count as wrong: 'true'" in line for line in record.warnings)


def test_distances_are_as_the_numbers_are_written(tmp_path: Path) -> None:
    rows = table([1, 5, 3], [1.4, 4.6, 2.2], ("u1", "u1", "u2"))
    for suffix in (".csv", ".jsonl"):
        _, scores = scored(write(tmp_path / f"mine{suffix}", rows), kind="ordinal")
        assert scores["mae"] == pytest.approx((0.4 + 0.8) / 2)
        assert scores["accuracy"] == 0.0


@pytest.mark.parametrize("cells", [["a,b", "b"], ["['a', 'b']", "['b']"], ['["a","b"]', '["b"]'], ["a | b", "b"]])
def test_several_labels_stand_in_a_cell_in_many_ways(tmp_path: Path, cells: list[str]) -> None:
    path = write(tmp_path / "mine.csv", table(cells * 2, [cells[0]] * 4))
    record, scores = scored(path, kind="multi")
    assert scores["jaccard"] == pytest.approx((1 + 0.5) / 2)
    assert not [line for line in record.warnings if "nobody gave" in line]


def test_parts_are_called_as_publishers_call_them(tmp_path: Path) -> None:
    for column, names in (
        ("split", ("train", "dev", "Test", "TEST ")),
        ("partition", ("Train", "validation", "test", "test")),
    ):
        path = write(tmp_path / "mine.csv", table([*"abab"], [*"bbab"], **{column: names}))
        submission = read_submission(path, ScoreOptions())
        assert submission.predictions["part"].to_list() == ["val", "test", "test"]
        assert submission.train.height == 1


def test_what_stands_for_nothing_is_unanswered_and_counted(tmp_path: Path) -> None:
    for outputs in ([float("nan"), "a", "b", "a"], ["nan", "a", "b", "a"], ["None", "a", "b", "a"]):
        path = write(tmp_path / "mine.jsonl", table([*"abab"], outputs))
        record, _ = scored(path)
        assert (record.methods[0].scored, record.methods[0].unscored) == (3, 1)
        assert any("1 outputs are empty or stand for nothing" in line for line in record.warnings)
    record, _ = scored(write(tmp_path / "text.jsonl", table([*"abab"], ["nan", "a b", "c", "d"])), kind="text")
    assert record.methods[0].unscored == 1


def test_a_classifier_s_output_is_its_best_label(tmp_path: Path) -> None:
    outputs = [[{"label": label, "score": 0.9}, {"label": "c", "score": 0.1}] for label in "abab"]
    assert scored(write(tmp_path / "mine.jsonl", table([*"abab"], outputs)))[1]["accuracy"] == 1.0
    assert "row 1: output: label holds what is no label" in refused(
        write(tmp_path / "logits.jsonl", table([*"abab"], [[[-1.2, False]]] * 4))
    )


def test_outputs_that_nobody_gave_are_named_and_never_all(tmp_path: Path) -> None:
    record, scores = scored(write(tmp_path / "mine.csv", table([*"abab"], ["a", "B", "A label", "b"])))
    assert scores["accuracy"] == 0.5
    assert any(
        "2 outputs are labels that nobody gave, and count as wrong: 'A label', 'B'" in line for line in record.warnings
    )
    assert any("'B' and 'b' look alike" in line for line in record.warnings)
    assert "no output is a label that a user gave ('0', '1')" in refused(
        write(tmp_path / "codes.csv", table(["no", "yes", "no", "yes"], [0, 1, 0, 1]))
    )


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("semicolons.csv", lambda text: text.replace(",", ";").encode()),
        ("mark.csv", lambda text: text.encode("utf-8-sig")),
        ("wide.csv", lambda text: text.encode("utf-16")),
        ("upper.txt", lambda text: text.replace("user", "User").replace("output", "Predicted").encode()),
    ],
)  # fmt: skip
def test_files_are_read_as_import_reads_them(tmp_path: Path, name: str, encode: Any) -> None:
    path = tmp_path / name
    path.write_bytes(encode(write(tmp_path / "plain.csv", table([*"abab"], [*"abbb"])).read_text()))
    assert scored(path)[1]["accuracy"] == 0.75


def test_json_of_any_layout(tmp_path: Path) -> None:
    rows = table([*"abab"], [*"abbb"], text=["a\u2028line"] * 4)
    for number, layout in enumerate((rows, {"data": rows}, {name: [row[name] for row in rows] for name in rows[0]})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(layout, indent=2, ensure_ascii=False))
        assert scored(path)[1]["accuracy"] == 0.75
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert scored(lines)[1]["accuracy"] == 0.75


def test_no_key_is_shown_where_names_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ann@x.org,i1,a,b\nbob@x.org,i2,b,b\n")
    assert "@" not in refused(path)
    keyed = tmp_path / "mine.json"
    keyed.write_text(json.dumps({"ann@x.org": {"i1": "a"}, "bob@x.org": {"i2": "b"}}))
    assert "@" not in refused(keyed)


def test_what_would_exhaust_the_machine_is_a_line(tmp_path: Path) -> None:
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"user":"u","item":"i","target":"a","output":' + "[" * 900 + "]" * 900 + "}\n" * 2)
    assert "nested more than 100 levels deep" in refused(deep)
    methods = [row | {"method": f"m{n}"} for n in range(101) for row in table([*"abab"], [*"abab"])]
    assert "holds 101 methods — score at most 100 at once" in refused(write(tmp_path / "many.jsonl", methods))
    long = [row | {"method": "m" * 100_000} for row in table([*"abab"], [*"abab"])]
    assert "longer than 200 characters" in refused(write(tmp_path / "long.jsonl", long))


@pytest.mark.parametrize(
    ("lines", "accuracy"),
    [("7\t[0, 1, 1]\n9\t[1]\n", (0.5 + 1 + 1) / 3), ("7\t[0.25, 0.75]\n9\t[1.0, 0.0]\n", (0.5 + 1 + 1) / 3)],
)
def test_answers_by_item_are_the_truth_s_users_own(tmp_path: Path, lines: str, accuracy: float) -> None:
    judgements = {"7": {"Ann1": "0", "Ann2": "1", "Ann3": "1"}, "9": {"Ann1": "0"}}
    truth = tmp_path / "MP_test.json"
    truth.write_text(
        json.dumps({
            key: {"text": {"reply": key}, "annotators": ",".join(given), "annotations": given, "split": "test"}
            for key, given in judgements.items()
        })
    )  # fmt: skip
    path = tmp_path / "mine.tsv"
    path.write_text(lines)
    record, scores = scored(path, truth=truth)
    assert record.users == 3
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert "cannot tell which column is the user" in refused(path)
    path.write_text(lines + lines.splitlines()[1].replace("9", "8"))
    assert "mine.tsv: row 3" in refused(path, truth=truth)
