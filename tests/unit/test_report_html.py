"""The report file: whole, safe, private, and true to the record."""

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from peftu.errors import PeftuError
from peftu.report.example import CARD, example_view
from peftu.report.html import render, render_folders
from peftu.report.view import RunView
from peftu.results import TaskSummary, finish_folder, start_folder, summarise

pytestmark = pytest.mark.pictures

VIEW = example_view(14, seeds=2)
RECORD, SCORES = VIEW.record, VIEW.scores
VOID = {"meta", "link", "br", "img", "hr", "wbr", "input"}


class Page(HTMLParser):
    """Collects what a browser would see, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words.append("" if tag == "wbr" else " ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def few(names: tuple[str, ...] = ("user-majority", "mixed-head")) -> RunView:
    """Returns the run with some of its methods only; charts take their time."""
    scores = SCORES.filter(pl.col("method").is_in(names))
    return RunView(RECORD.model_copy(update={"methods": tuple(summarise(scores, CARD))}), scores)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render([VIEW], tmp_path_factory.mktemp("report")).read_text()


@pytest.fixture(scope="module")
def page(raw: str) -> Page:
    return Page(raw)


def test_nothing_is_run_or_loaded_from_elsewhere(raw: str, page: Page) -> None:
    assert "://" not in raw
    assert "url(" not in raw
    assert "@import" not in raw
    assert not {"link", "img", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.tags}
    scripts = re.findall(r"<script>(.*?)</script>", raw, re.DOTALL)
    (allowed,) = re.findall(r"script-src 'sha256-(.+?)'", raw)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert digests == [allowed], "the page allows its own script and no other"
    assert "default-src 'none'" in raw
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "xlink:href")}
        assert (attributes.get("href") or "#").startswith("#")


def test_no_user_key_appears(raw: str) -> None:
    assert "key-" not in raw
    assert re.search(r">user \d+<", raw)


def test_page_says_what_the_record_says(page: Page) -> None:
    answer = VIEW.verdict
    for words in (answer.headline, answer.text, answer.whom, answer.advice):
        assert words
        assert words in page.text
    for result in RECORD.methods:
        assert result.label in page.text
        assert f"{100 * (result.mean or 0):.1f}" in page.text
    for fact in (RECORD.command, RECORD.run, RECORD.hashes.data, RECORD.hashes.splits["1"], "smollm2", CARD.licence):
        assert fact is not None
        assert fact in page.text
    assert "94.5 % with a text that other users trained on" in page.text
    assert "2 fewer than 10 items; 1 test part would be empty" in page.text
    assert "content warning: None of this was said by anybody." in page.text


def test_charts_have_words_and_tables_have_heads(page: Page) -> None:
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == sum(tag == "figure" for tag, _ in page.tags)
    assert all(len(picture["aria-label"] or "") > 20 for picture in pictures)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert headings[:3] == [1, 2, 3]


def test_colours_come_from_the_page(raw: str) -> None:
    charts = raw[raw.index("<svg") : raw.rindex("</svg>")]
    for name in ("--helped", "--hurt", "--ink", "--muted", "--line"):
        assert f"var({name})" in charts
    assert "clip-path" not in charts, "ids of one chart would be taken for those of another"


def test_several_runs_stand_in_one_report(tmp_path: Path) -> None:
    page = Page(render([few(("user-majority",)), few(("user-majority", "global"))], tmp_path / "both.html").read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {"#run-1", "#run-2", "#run-1-board", "#run-2-board", "#run-2-people"} <= set(links)
    assert "#run-1-people" not in links, "user-majority alone helps nobody"
    assert {f"#{name}" for name in ids} >= set(links)
    assert len(ids) == len(set(ids))


def test_names_are_never_markup(tmp_path: Path) -> None:
    view = few()
    record, scores = view.record, view.scores
    wicked = "<script>alert(1)</script>"
    scores = scores.with_columns(method=pl.col("method").replace({"mixed-head": wicked}))
    methods = tuple(summarise(scores, CARD))
    task = record.task.model_copy(update={"title": wicked, "citation": wicked})
    record = record.model_copy(update={"methods": methods, "task": task, "command": wicked, "spec": {"task": wicked}})
    page = Page(render([RunView(record, scores)], tmp_path / "r.html").read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert wicked in page.text


def test_without_user_majority_the_page_says_so(tmp_path: Path) -> None:
    page = Page(render([few(("mixed-head",))], tmp_path / "r.html").read_text())
    assert "No yardstick" in page.text
    assert "For whom" not in page.text, "parts without data are left out"


def test_a_failed_run_without_results_still_has_a_page(tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"methods": (), "status": "failed", "error": "out of memory"})
    page = Page(render([RunView(record, SCORES.clear())], tmp_path / "r.html").read_text())
    assert "This run failed" in page.text
    assert "out of memory" in page.text


def test_one_user_and_a_method_never_scored(tmp_path: Path) -> None:
    one = SCORES.filter(pl.col("user_id") == "key-0", pl.col("method").is_in(["user-majority", "ia3", "lora[r=4]"]))
    silent = pl.col("method") == "ia3"
    one = one.with_columns(pl.when(silent).then(None).otherwise(name).alias(name) for name in ("accuracy", "macro_f1"))
    one = one.with_columns(n_scored=pl.when(silent).then(0).otherwise("n_scored"))
    record = RECORD.model_copy(update={"methods": tuple(summarise(one, CARD)), "users": 1})
    page = Page(render([RunView(record, one)], tmp_path / "r.html").read_text())
    assert "1 user is too few" in page.text
    assert "40 rows not scored" in page.text


def test_ordinal_tasks_count_in_steps(tmp_path: Path) -> None:
    view = few()
    record, scores = view.record, view.scores
    card = CARD.model_copy(update={"kind": "ordinal", "main_metric": "mae"})
    scores = scores.with_columns(mae=2 * (1 - pl.col("accuracy")))
    record = record.model_copy(update={"methods": tuple(summarise(scores, card)), "task": TaskSummary.of(card)})
    page = Page(render([RunView(record, scores)], tmp_path / "r.html").read_text())
    assert "lower is better" in page.text
    assert "steps" in page.text


def test_folders_are_checked_before_they_are_shown(tmp_path: Path) -> None:
    view = few(("user-majority",))
    record, scores = view.record, view.scores
    folder = start_folder(tmp_path / "run")
    scores.write_parquet(folder / "user_scores.parquet")
    with pytest.raises(PeftuError, match="did not finish"):
        render_folders([folder], folder)
    finish_folder(folder, record)
    assert render_folders([folder], folder) == folder / "report.html"
    assert render_folders([folder], folder).stat().st_size > 10_000, "a report may be drawn again in its folder"
    assert render_folders([folder], tmp_path / "new" / "all.html").is_file()
    with pytest.raises(PeftuError, match=r"all\.html: cannot be written"):
        render_folders([folder], tmp_path / "new" / "all.html" / "x.html")


def test_missing_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeftuError, match="no run was given"):
        render([], tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "altair", None)
    for name in [name for name in sys.modules if name.startswith(("peftu.report.charts", "peftu.report.sections"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PeftuError, match=r"pip install 'peftu\[report\]'"):
        render([few()], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
