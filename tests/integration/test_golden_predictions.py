"""Every method's predictions, scores, costs and notes are what they were when the golden numbers were written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import COMPARISONS, FOLDER, REAL, arithmetic, measured, place

from peftu.base.cards import bases, weights_at_hand
from peftu.methods.method import methods

torch.set_num_threads(1)

SAME, ELSEWHERE = 1e-6, 1e-3  # differences of scores, where a processor rounds as the golden one did and where not


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("golden")
    with place(folder):
        yield folder


def check(name: str, found: dict[str, Any]) -> None:
    """Asserts that a comparison comes to its golden numbers."""
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    same = golden["arithmetic"] == arithmetic()
    within = {"rel": SAME, "abs": SAME} if same else {"rel": ELSEWHERE, "abs": ELSEWHERE}
    assert found["told"] == golden["told"]
    assert found["rows"] == golden["rows"]
    assert list(found["methods"]) == list(golden["methods"])
    for label, was in golden["methods"].items():
        now = found["methods"][label]
        assert now.keys() == was.keys()
        for key in ("parameters", "bytes", "uses_others_labels"):
            assert now[key] == was[key], (label, key)
        if same:
            assert now["predicted"] == was["predicted"], label
        for key in ("scores", "notes"):
            wrong = list(differing(now[key], was[key], within, (label, key)))
            assert not wrong, wrong[:5]


def differing(now: Any, was: Any, within: dict[str, float], where: tuple[Any, ...]) -> Iterator[Any]:
    """Yields where two JSON values differ, numbers by more than is allowed."""
    if isinstance(was, dict | list) and type(now) is type(was) and len(now) == len(was):
        for key in was if isinstance(was, dict) else range(len(was)):
            known = not isinstance(now, dict) or key in now
            yield from differing(now[key], was[key], within, (*where, key)) if known else [(*where, key)]
    elif isinstance(was, float) and isinstance(now, int | float):
        if now != pytest.approx(was, **within):
            yield (*where, now, was)
    elif now != was:
        yield (*where, now, was)


@pytest.mark.parametrize("name", COMPARISONS)
def test_predictions_are_what_they_were(home: Path, name: str) -> None:
    check(name, measured(COMPARISONS[name], home / "runs" / name))


@pytest.mark.weights
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "real-encoder" else pytest.mark.slow) for name in REAL]
)
def test_predictions_on_real_bases_are_what_they_were(home: Path, name: str) -> None:
    if weights_at_hand(bases.get(REAL[name].base)) is None:
        pytest.skip(f"{REAL[name].base} is not in the cache — make setup puts it there")
    check(name, measured(REAL[name], home / "runs" / name))


def test_every_method_is_among_them() -> None:
    chosen = {name for name, comparison in COMPARISONS.items() if comparison.kind == "single"}
    labels = [label for name in chosen for label in json.loads((FOLDER / f"{name}.json").read_text())["methods"]]
    assert {re.split(r"[\[@+]", label)[0] for label in labels} == set(methods.names())


def test_a_number_that_moved_is_seen() -> None:
    was = json.loads((FOLDER / "multi.json").read_text())
    moved = json.loads(json.dumps(was))
    check("multi", {**moved, "rows": was["rows"]})
    next(iter(moved["methods"].values()))["scores"][3][1] += 1e-4
    with pytest.raises(AssertionError):
        check("multi", moved)
