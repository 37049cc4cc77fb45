"""docs/tasks.md is what the cards say."""

from pathlib import Path

from peftu.data.page import tasks_page
from peftu.data.task import tasks

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_the_page_is_in_step_with_the_cards() -> None:
    mend = "write it anew: python -m peftu.data.page > docs/tasks.md"
    assert PAGE.read_text(encoding="utf-8") == tasks_page(), mend


def test_every_task_of_this_package_is_on_it() -> None:
    lines = PAGE.read_text(encoding="utf-8")
    assert all(f"| [`{name}`](#" in lines for name in tasks.names())
