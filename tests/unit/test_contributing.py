"""The task and the method in CONTRIBUTING.md are what it says: whole, and accepted."""

import re
from pathlib import Path
from typing import Any

import pytest

from peftu.data.check import check_task
from peftu.data.task import Task
from peftu.errors import PeftuError
from peftu.testing import check_method

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def from_page(name: str) -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(next(block for block in blocks if f"class {name}" in block), found)  # noqa: S102 - our own page
    return found[name]


@pytest.fixture
def task() -> type[Task]:
    return from_page("Jokes")


def test_the_method_of_the_page_keeps_every_promise() -> None:
    check_method(from_page("Shift")())


def test_the_task_of_the_page_is_accepted(task: type[Task], tmp_path: Path) -> None:
    rows = "volunteer,joke,text,label\nann,1,Knock knock.,funny\nbob,1,Knock knock.,dull\n"
    (tmp_path / "jokes.csv").write_text(rows, encoding="utf-8")
    assert check_task(task, tmp_path).frame["user_id"].to_list() == ["ann", "bob"]


def test_a_wrong_row_of_it_is_named(task: type[Task], tmp_path: Path) -> None:
    (tmp_path / "jokes.csv").write_text("volunteer,joke,text,label\nann,1,Knock knock.,fuzzy\n", encoding="utf-8")
    with pytest.raises(PeftuError, match="row 1: label 'fuzzy'"):
        check_task(task, tmp_path)
