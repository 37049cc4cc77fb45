"""The table of docs/performance.md is that of the last whole run in the committed history."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_is_what_the_script_makes_of_its_history() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "training.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- training:start -->\n")[2].partition("\n<!-- training:end -->")[0]
    assert shown == script["table"](script["whole"]())
