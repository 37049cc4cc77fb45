"""The tables of docs/generative.md are those of the committed result file."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_are_what_the_script_makes_of_its_results() -> None:
    spec = importlib.util.spec_from_file_location("generative", ROOT / "benchmarks" / "generative.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    results = json.loads((ROOT / "benchmarks" / "results" / "generative.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "generative.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- generative:start -->")[2].partition("<!-- generative:end -->")[0]
    for site in script.SITES:
        assert script.table(results[f"stackexchange-{site}"]) in shown
    assert shown.count("| zero-shot |") == len(results)
