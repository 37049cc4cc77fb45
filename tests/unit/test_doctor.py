import json
from pathlib import Path
from typing import Any

import pytest

from peftu import doctor


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "not" / "made"))
    return doctor.examine()


def test_an_examination_is_plain_data_and_writes_nothing(found: dict[str, Any], tmp_path: Path) -> None:
    assert json.loads(json.dumps(found)) == found
    assert not (tmp_path / "not").exists()
    assert found["cores"] >= 1
    assert found["torch"]["dtype"] in ("bfloat16", "float32")
    assert found["cache"]["bytes"] == 0
    assert found["cache"]["writable"]


def test_rows_name_every_base(found: dict[str, Any]) -> None:
    rows = dict(doctor.as_rows(found))
    assert {f"base {base['name']}" for base in found["bases"]} <= set(rows)
    assert "not fetched yet" in rows["base smollm2-135m-instruct"]


def test_each_problem_has_a_mend(found: dict[str, Any]) -> None:
    assert [problem["mend"].split(" (")[0] for problem in found["problems"]][-1].endswith("smollm2-135m-instruct")
    worst = found | {
        "torch": None,
        "free_memory_bytes": 10**8,
        "cache": {"path": "somewhere", "bytes": 0, "free_bytes": 10**6, "writable": False},
    }
    problems = doctor._problems(worst)
    assert len(problems) == 5
    assert all(problem["problem"] and problem["mend"] for problem in problems)
    assert dict(doctor.as_rows(worst))["torch"] == "not installed"


def test_missing_packages_of_an_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["rich>=13", 'torch>=2.6; extra == "train"', "no-such-package-here; extra == 'ray'", "x; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    extras = {"train": [], "quantize": [], "report": [], "serve": [], "ray": ["no-such-package-here"]}
    assert doctor._extras() == extras
