"""docs/runs.md names every field that a run's description has."""

import re
from pathlib import Path

from peftu.config import RunSpec, SplitSpec, TrainSpec

PAGE = Path(__file__).parents[2] / "docs" / "runs.md"


def test_the_page_has_every_field_of_a_run_and_no_other() -> None:
    rows = re.findall(r"^\| (`[a-z_.`, ]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    groups = {"split": SplitSpec, "train": TrainSpec}
    fields = {f"{group}.{name}" for group, spec in groups.items() for name in spec.model_fields}
    assert told - fields >= set(RunSpec.model_fields) - set(groups)
    assert {name for name in told if name.split(".")[0] in groups} == fields
