"""A method that cannot be fitted is told where its numbers would stand, and everything else is there."""

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel
from terminal import TASK, peftu

import peftu as front
from peftu.methods.method import MethodCard, methods
from peftu.results import RunRecord


class Breaking(BaseModel, frozen=True):
    """A method of somebody's own, with a bug that names a user."""

    card: ClassVar[MethodCard] = MethodCard(
        name="breaking", summary="Breaks.", scope="user", trained=False, uses_others_labels=False, needs_base="no",
        source="somebody",
    )  # fmt: skip

    def fit(self, problem: Any, features: Any, seed: int) -> Any:
        """Breaks."""
        raise KeyError(problem.users[0])

    def restore(self, tensors: Any, about: dict[str, Any], features: Any) -> Any:
        """Breaks."""
        raise NotImplementedError


class Mended(Breaking, frozen=True):
    """The same method without the bug."""

    def fit(self, problem: Any, features: Any, seed: int) -> Any:
        """Returns what everyone's majority is."""
        return methods.get("global-majority")().fit(problem, features, seed)


@pytest.fixture
def _breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_loaded", {})
    methods.add("breaking", Breaking)


@pytest.mark.usefixtures("_breaking")
def test_what_failed_is_named_and_the_rest_is_judged(place: Path) -> None:
    asked = "user-majority,breaking,mixed-head[features=tfidf]"
    command = ("compare", TASK, "--methods", asked, "--raw", "raw", "--out", "partly")
    said = peftu(*command, "--json")
    assert said.code == 1
    why = said.json["failed"][0]["why"]
    assert re.fullmatch(r"KeyError in test_cli_failed\.py, line \d+: a bug — please report it with the traceback", why)
    assert said.json["failed"] == [{"method": "breaking", "base": None, "seed": 0, "why": why}]
    assert {result["method"] for result in said.json["methods"]} >= {"user-majority", "mixed-head[features=tfidf]"}
    assert said.err.splitlines()[-1] == f"failed: breaking, seed 0: {why}"
    assert "Traceback" in said.err
    assert RunRecord.read(place / "partly").status == "failed"
    again = peftu(*command)
    assert again.code == 1
    row = next(line for line in again.out.splitlines() if line.startswith("breaking"))
    assert row.split()[:2] == ["breaking", "failed"]
    assert why.split(":")[0] in again.out
    assert "Not finished" not in again.out
    page = (place / "partly" / "report.html").read_text(encoding="utf-8")
    assert '<span class="name">Breaking</span>' in page
    assert ">failed<" in page
    assert why in page
    assert "failed" in front.open(place / "partly")._repr_html_()
    methods.add("breaking", Mended)
    mended = peftu(*command, "--json")
    assert mended.code == 0, mended.err
    assert "2 of 3 cells were there already" in mended.err
    assert {result["method"] for result in mended.json["methods"]} >= {"user-majority", "breaking"}
