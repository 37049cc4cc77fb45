"""The tables of docs/performance.md are those of the committed results."""

import json
import runpy
from pathlib import Path

import pytest

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


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_what_measures_a_gpu_runs_at_toy_size() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))
    result = script["run"](toy=True)
    assert {row["method"] for row in result["correctness"]} == {"lora", "prefix-tuning"}
    assert result["largest_gap"] == 0  # a processor against itself
    for name, shape in result["shapes"].items():
        regions = {"whole", "default"} | ({"nf4 whole", "nf4 default"} if name == script["LARGEST"] else set())
        assert regions == {region for region in shape if region in ("whole", "default") or region.startswith("nf4")}
        assert all(shape[region]["users_per_hour"] > 0 for region in regions)
        assert shape["whole"]["ratio"] > 0
    assert script["table"](result).count("\n| Qwen3-8B |") == 4 + 3
    assert all(mark in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") for mark in script["MARKS"])
