"""Predictions as evaluation tools write them: which columns they have, and which of these is what."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from damage import claimants, mutated

from peftu.data.importer.importing import import_file
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError, Source
from peftu.errors import PeftuError


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if name.endswith("jsonl"):
        content = "\n".join(map(json.dumps, content))
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def by_role(path: Path) -> tuple[dict[str, list[Any]], Source]:
    """Returns role -> its column's cells."""
    with opened(path) as source:
        frame, _ = source.read(source.columns)
        return {role: frame[column].to_list() for role, column in source.roles.items()}, source


def sample(doc: int, target: str, scores: list[Any], **more: Any) -> dict[str, Any]:
    """Returns a sample with two choices, as lm-eval logs it."""
    choices = {f"gen_args_{n}": {"arg_0": "secret?", "arg_1": f" {word}"} for n, word in enumerate(("no", "yes"))}
    about = {"text": f"secret {doc}", "user": f"secret{doc}", "choices": ["no", "yes"], "target": "gold"}
    return {
        "doc_id": doc, "doc": about, "target": target, "arguments": choices, "resps": [[score] for score in scores],
        "filtered_resps": scores, "filter": "none", "doc_hash": "x", **more,
    }  # fmt: skip


SAMPLES = [
    sample(0, "1", [["-2.5", "False"], ["-1.5", "False"]], acc=1.0),
    sample(1, "0", [[-1.0, True], [-4.0, False]], acc=1.0),
    sample(2, "0", [[-3.0, False], [-1.0, True]], acc=0.0),
]
TEXTS = [
    {"doc_id": 0, "doc": {"user": "u1"}, "target": "four", "filtered_resps": ["4"], "filter": "a"},
    {
        "doc_id": 0,
        "doc": {"user": "u1"},
        "target": "four",
        "resps": [["so 4"]],
        "filtered_resps": ["so"],
        "filter": "b",
    },
]
EVALUATE = {
    "predictions": [1, 0, 1],
    "references": [[1], [1], [0]],
    "user": ["secret1", "secret1", "secret2"],
    "acc": 0.3,
}
LAMP = {"task": "LaMP_1", "golds": [{"id": "secret110", "output": "[1]"}, {"id": "secret111", "output": "[2]"}]}


def test_choices_of_lm_eval(tmp_path: Path) -> None:
    roles, source = by_role(write(tmp_path, "samples_mine.jsonl", SAMPLES))
    assert (roles["item"], roles["target"], roles["output"]) == (
        ["0", "1", "2"],
        ["yes", "no", "no"],
        ["yes", "no", "yes"],
    )
    shares = [json.loads(cell) for cell in roles["probabilities"]]
    assert all(math.isclose(sum(share.values()), 1) for share in shares)
    assert math.isclose(shares[0]["yes"], 1 / (1 + math.exp(-1)))
    assert {"user", "text", "doc.target"} <= set(source.columns)
    assert "method" not in roles


def test_texts_and_filters_of_lm_eval(tmp_path: Path) -> None:
    roles, _ = by_role(write(tmp_path, "samples_mine.jsonl", TEXTS))
    assert roles == {"item": ["0"] * 2, "target": ["four"] * 2, "output": ["4", "so"], "method": ["a", "b"]}


def test_targets_of_lm_eval_that_are_choices_or_numbers(tmp_path: Path) -> None:
    """Choices '1' and '0': the target '0' is the choice '0', or the number of the choice '1'."""
    choices = {f"gen_args_{n}": {"arg_0": "?", "arg_1": word} for n, word in enumerate("10")}

    def rows(right: float | None) -> list[dict[str, Any]]:
        more = {} if right is None else {"acc": right}
        return [sample(0, "0", [[-1.0, True], [-2.0, False]], **more) | {"arguments": choices}] * 2

    for acc, target in ((1.0, "1"), (0.0, "0")):  # the likeliest choice is '1'
        roles, _ = by_role(write(tmp_path, "samples.jsonl", rows(acc)))
        assert roles["target"] == [target] * 2
    with pytest.raises(PeftuError, match="targets can be choices or their numbers"):
        by_role(write(tmp_path, "samples.jsonl", rows(None)))


def test_lm_eval_without_one_answer(tmp_path: Path) -> None:
    rows = [*SAMPLES, SAMPLES[0] | {"filtered_resps": ["a", "b", "c"]}]
    with pytest.raises(RowsError, match="row 4: 'filtered_resps' are not one answer"):
        by_role(write(tmp_path, "samples.jsonl", rows))


def test_evaluate(tmp_path: Path) -> None:
    roles, source = by_role(write(tmp_path, "mine.json", EVALUATE))
    assert roles == {"output": ["1", "0", "1"], "target": ["1", "1", "0"], "item": ["1", "2", "3"]}
    assert source.columns == ("predictions", "references", "user", "row")
    assert source.notes == ("1 fields that hold no list of 3 values are not read",)
    with pytest.raises(PeftuError, match="3 predictions for 2 references — write one for each"):
        by_role(write(tmp_path, "mine.json", EVALUATE | {"references": [1, 0]}))
    several = EVALUATE | {"predictions": [[1, 0], [], [1]], "references": [[1], [0, 1], [1]]}
    roles, _ = by_role(write(tmp_path, "mine.json", several))
    assert roles["output"] == [["1", "0"], [], ["1"]]
    assert roles["target"] == [["1"], ["0", "1"], ["1"]]


def test_lamp(tmp_path: Path) -> None:
    roles, _ = by_role(write(tmp_path, "mine.json", LAMP))
    assert roles == {"user": ["secret110", "secret111"], "item": ["secret110", "secret111"], "output": ["[1]", "[2]"]}


@pytest.mark.parametrize("end", ["\n", ""])
def test_lewidi(tmp_path: Path, end: str) -> None:
    roles, _ = by_role(write(tmp_path, "MP_test_soft.tsv", f"7\t[0.25, 0.75]\n9\t[1.0, 0.0]{end}"))
    assert roles == {"item": ["7", "9"], "probabilities": [[0.25, 0.75], [1.0, 0.0]]}
    roles, source = by_role(write(tmp_path, "MP_test_pe.tsv", f"7\t[0, 1, 1]\n9\t[]\n11\t[1]{end}"))
    assert roles == {"item": [*"777", "11"], "output": [*"0111"], "place": [*"1231"]}
    assert list(source.places or ()) == ["row 1, number 1", "row 1, number 2", "row 1, number 3", "row 3, number 1"]
    assert source.left_out == {"items without a number": 1}
    many = "".join(f"{number}\t[0, 1]\n" for number in range(30))
    with pytest.raises(RowsError, match="row 31: is no key, tab and list of numbers"):
        by_role(write(tmp_path, "MP_test_pe.tsv", f"{many}secret\tx{end}"))


def test_a_column_for_each_system(tmp_path: Path) -> None:
    text = "user,item,target,pred_lora,pred_base\nu1,i1,a,a,b\nu1,i2,b,,b\n"
    for path in (
        write(tmp_path, "mine.csv", text),
        write(tmp_path, "mine.jsonl", pl.read_csv(text.encode()).to_dicts()),
    ):
        roles, source = by_role(path)
        cells = sorted(zip(roles["method"], roles["target"], [cell or "" for cell in roles["output"]], strict=True))
        assert cells == [("base", "a", "b"), ("base", "b", "b"), ("lora", "a", "a"), ("lora", "b", "")]
        assert sorted(source.places or ()) == ["row 1, base", "row 1, lora", "row 2, base", "row 2, lora"]


def test_probabilities_in_columns(tmp_path: Path) -> None:
    text = "user;item;target;proba_no;proba_yes\nu1;i1;yes;0.25;0.75\nu1;i2;no;;\n"
    roles, source = by_role(write(tmp_path, "mine.csv", text))
    assert [json.loads(cell) if cell else None for cell in roles["probabilities"]] == [{"no": 0.25, "yes": 0.75}, None]
    assert roles["output"] == ["yes", None]
    assert source.columns == ("user", "item", "target", "probabilities", "output")
    given = "user,item,output,prob_a,prob_b\nu1,i1,b,0.5,0.5\n"
    roles, _ = by_role(write(tmp_path, "mine.csv", given))
    assert set(roles) == {"probabilities"}
    with pytest.raises(RowsError, match="row 1: column 'prob_a' holds no number"):
        by_role(write(tmp_path, "mine.csv", given.replace("0.5,", "much,")))


def test_a_table_to_import_with_such_columns_stays_one(tmp_path: Path) -> None:
    text = "user,text,label,prob_a,prob_b\nu1,x,a,0.5,0.5\nu2,x,b,0.2,0.8\n"
    assert import_file(write(tmp_path, "mine.csv", text))["annotations"] == 2


def test_one_reader_claims_a_file(tmp_path: Path) -> None:
    systems = "user,item,target,pred_lora,pred_base\nu1,i1,a,a,b\n"
    for reader, name, content in (
        ("lm-eval", "samples.jsonl", SAMPLES),
        ("evaluate", "mine.json", EVALUATE),
        ("lamp", "mine.json", LAMP),
        ("lewidi", "soft.tsv", "7\t[0.25, 0.75]\n"),
        ("systems", "mine.csv", systems),
        ("probabilities", "mine.csv", systems.replace("pred_", "proba_")),
    ):
        assert claimants(write(tmp_path, name, content)) == [reader]


@pytest.mark.parametrize("name", ["samples.jsonl", "texts.jsonl", "evaluate.json", "lamp.json"])
def test_damaged_files_are_read_or_told(tmp_path: Path, name: str) -> None:
    content = {"samples": SAMPLES[:2], "texts": TEXTS, "evaluate": EVALUATE, "lamp": LAMP}[name.split(".")[0]]
    for damage in mutated(content):
        said = ""
        try:
            by_role(write(tmp_path, name, damage))
        except PeftuError as error:
            said = str(error).replace(str(tmp_path), "")
        assert "secret" not in said
        assert "\n" not in said
