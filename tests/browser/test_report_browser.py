"""The report in a real Chromium: no network, no error, usable by mouse, keyboard and screen reader, at any width."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from visiting import NARROW, WIDE, Visit, check_accessible

from peftu.report.example import example_view
from peftu.report.html import render
from peftu.report.view import RunView

pytestmark = pytest.mark.pictures


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report over one run, and one over two."""
    folder = tmp_path_factory.mktemp("reports")
    view = example_view(24, seeds=2)
    few = tuple(method for method in view.record.methods if method.method in ("user-majority", "lora[r=4]"))
    small = view.scores.filter(pl.col("method").is_in([method.method for method in few]))
    four = tuple(method for method in view.record.methods if method.base)
    runs = [
        RunView(view.record.model_copy(update={"methods": few}), small),
        RunView(view.record.model_copy(update={"methods": four}), view.scores.filter(pl.col("base").is_not_null())),
    ]
    return {"one": render([view], folder / "one.html"), "two": render(runs, folder / "two.html")}


@pytest.fixture
def visitor(browser: Any) -> Iterator[Visit]:
    """Afterwards nothing but the file may have been asked for, and nothing been complained of."""
    visitor = Visit(browser, offline=True)
    yield visitor
    visitor.close()
    assert visitor.said == []
    assert visitor.asked == [visitor.address]


@pytest.fixture
def visit(visitor: Visit, reports: dict[str, Path]) -> Callable[..., Any]:
    """Opens a report."""
    return lambda which="one", *how, **more: visitor(reports[which].as_uri(), *how, **more)


def column(page: Any, place: int) -> list[str]:
    """Returns what the leaderboard's rows show in a column, from top to bottom."""
    cells = page.locator(f".sortable tbody tr:visible > :nth-child({place + 1})").all_inner_texts()
    return [cell.splitlines()[0].strip() for cell in cells]


def numbers(page: Any, place: int) -> list[float | None]:
    minus = "\N{MINUS SIGN}"
    shown = [cell.replace(minus, "-").replace("\u202f", "") for cell in column(page, place)]
    return [None if cell == "\N{EN DASH}" else float(cell) for cell in shown]


def head(page: Any, title: str) -> Any:
    return page.locator(".sortable thead th", has_text=title)


@pytest.mark.parametrize(
    ("which", "size", "scheme"), [("one", WIDE, "light"), ("one", NARROW, "dark"), ("two", NARROW, "light")]
)
def test_axe_finds_nothing(visit: Callable[..., Any], which: str, size: dict[str, int], scheme: str) -> None:
    page = visit(which, size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    check_accessible(page, size["width"])


def test_colours_follow_the_reader(visit: Callable[..., Any]) -> None:
    page = visit(scheme="dark")
    colours = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colours)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(colours)
    assert (dark, light) == ("rgb(20, 24, 28)", "rgb(255, 255, 255)")
    page.emulate_media(media="print")
    assert not page.locator(".filter").is_visible()


def test_columns_sort_both_ways(visit: Callable[..., Any]) -> None:
    page = visit()
    first = column(page, 0)
    score = head(page, "Accuracy")
    assert score.get_attribute("aria-sort") == "descending"
    found = numbers(page, 1)
    assert found == sorted(found, reverse=True)
    score.get_by_role("button").click()
    assert score.get_attribute("aria-sort") == "ascending"
    assert numbers(page, 1) == sorted(found)
    assert column(page, 0) == first[::-1]

    gain = head(page, "gain over each user's habit")
    for way, turned in (("descending", True), ("ascending", False)):
        gain.get_by_role("button").click()
        assert gain.get_attribute("aria-sort") == way
        assert score.get_attribute("aria-sort") is None
        *gains, last = numbers(page, 2)
        assert last is None, "a line without a value stands last, whichever way"
        assert gains == sorted(gains, reverse=turned)
    assert "Sorted by gain over each user's habit, ascending" in page.get_by_role("status").inner_text()

    head(page, "method").get_by_role("button").click()
    assert column(page, 0) == sorted(first)


def test_keyboard_sorts_and_filters(visit: Callable[..., Any]) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.textContent.trim()") == "method":
            break
    page.keyboard.press("Enter")
    assert head(page, "method").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert head(page, "method").get_attribute("aria-sort") == "descending"
    names = column(page, 0)
    assert names == sorted(names, reverse=True)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where the keyboard is"


def test_filters_by_text_and_boxes(visit: Callable[..., Any]) -> None:
    page = visit()
    status = page.get_by_role("status")
    find = page.get_by_role("searchbox", name="Find a method")
    find.fill("SMOLLM2 lora")
    assert column(page, 0) == ["LoRA (r=4)"]
    assert status.inner_text() == "1 of 6 methods shown."
    find.fill("no such thing")
    assert status.inner_text() == "0 of 6 methods shown."
    find.fill("")
    assert status.inner_text() == "All 6 methods shown."
    page.get_by_role("checkbox", name="personal", exact=True).uncheck()
    page.get_by_role("checkbox", name="no parameters").uncheck()
    assert sorted(column(page, 0)) == ["Mixed head", "One shared model"]
    page.get_by_role("checkbox", name="not trained").check()
    page.get_by_role("checkbox", name="trained", exact=True).uncheck()
    assert column(page, 0) == []
    head(page, "Accuracy").get_by_role("button").click()
    assert column(page, 0) == [], "sorting brings nothing back"


def test_runs_in_one_report_do_not_disturb_each_other(visit: Callable[..., Any], visitor: Visit) -> None:
    page = visit("two")
    boards = page.locator(".board")
    assert not boards.nth(0).locator(".filter").count(), "two methods need no filter"
    boards.nth(1).get_by_role("searchbox").fill("lora")
    assert boards.nth(0).locator("tbody tr:visible").count() == 2
    assert boards.nth(1).locator("tbody tr:visible").count() == 1
    page.get_by_role("link", name="Invented judgements").nth(1).click()
    assert page.evaluate("location.hash") == "#run-2"
    visitor.asked[1:] = []  # a link within the page


def test_without_scripts_everything_is_there(visit: Callable[..., Any]) -> None:
    page = visit(scripts=False)
    assert len(column(page, 0)) == 6
    assert not page.locator(".filter").is_visible(), "a filter that does nothing is not shown"
    assert page.locator(".sortable thead th").first.inner_text() == "method"


def test_foreign_scripts_and_requests_are_refused(browser: Any, reports: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(reports["one"].as_uri())
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    reached = "fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
    assert page.evaluate(reached) == "refused"
    page.close()
