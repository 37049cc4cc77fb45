"""docs/scale.md shows what the script makes of its committed results."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_script_makes_of_its_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- scale:start -->\n")[2].partition("\n<!-- scale:end -->")[0]
    assert shown == script["page"](json.loads(script["RESULT"].read_text(encoding="utf-8")))
