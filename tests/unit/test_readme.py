"""Numbers in the README are those of a committed result file, written by a committed script."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_accuracy_table_is_what_the_script_makes_of_its_results() -> None:
    path = ROOT / "benchmarks" / "accuracy.py"
    spec = importlib.util.spec_from_file_location("accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    results = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- accuracy:start -->\n(.*?)<!-- accuracy:end -->", readme, re.DOTALL)
    assert shown is not None
    assert script.table(results["tweeteval"]) in shown[1]


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
