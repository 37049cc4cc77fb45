"""The tables of docs/performance.md are those of the committed results."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_training_is_what_the_script_makes_of_its_history() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "training.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- training:start -->\n")[2].partition("\n<!-- training:end -->")[0]
    assert shown == script["table"](script["whole"]())


def test_the_tables_of_regions_are_what_the_script_makes_of_its_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "regions.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for regions in json.loads(script["RESULTS"].read_text(encoding="utf-8")).values():
        assert script["table"](regions) in page


def test_the_table_of_cohorts_is_what_the_script_makes_of_its_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "cohorts.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert script["table"](json.loads(script["RESULT"].read_text(encoding="utf-8"))["medians"]) in page
