"""The benchmark on MultiPICo: its error rate is the shared task's, its choice was made on dev, the docs show it."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("multipico", ROOT / "benchmarks" / "multipico.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_error_rate_is_the_mean_over_items_of_the_share_that_is_wrong(script: ModuleType) -> None:
    table = synthetic_table(7, 30, share=0.5)
    problem = make_problem(table, table.card, make_split(table))
    rows = np.arange(0, len(problem.user), 2)
    guess = np.random.default_rng(0).integers(0, 2, len(rows))
    wrong: dict[str, list[bool]] = {}
    for row, label in zip(rows, guess, strict=True):
        wrong.setdefault(problem.item_ids[row], []).append(bool(label != problem.label[row]))
    expected = sum(sum(of) / len(of) for of in wrong.values()) / len(wrong)
    assert script.error_rate(problem, rows, guess) == pytest.approx(expected)
    doubled = dataclasses.replace(problem, item_ids=("one",) * len(problem.item_ids))
    assert script.error_rate(doubled, rows, guess) == pytest.approx((guess != problem.label[rows]).mean())


def test_only_what_was_best_on_dev_has_seen_the_test_part(script: ModuleType) -> None:
    found = json.loads(script.RESULTS.read_text(encoding="utf-8"))["candidates"]
    best = min(found, key=lambda name: found[name]["dev"]["error_rate"])
    assert [name for name, row in found.items() if "test" in row] == [best]
    assert found[best]["test"]["items"] == 3756


def test_the_docs_show_what_was_measured(script: ModuleType) -> None:
    docs = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- multipico:start -->\n(.*?)\n<!-- multipico:end -->", docs, re.DOTALL)
    assert shown is not None
    assert shown[1] == script.table(json.loads(script.RESULTS.read_text(encoding="utf-8")))
