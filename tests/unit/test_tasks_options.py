"""Presets, variants, least examples, what is left out: what every task gets without asking."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from peftu.data import commands
from peftu.data.check import check_card, check_task
from peftu.data.load import load_task, task_options
from peftu.data.reading import AGAIN, ANEW, once
from peftu.data.synthetic import synthetic_card
from peftu.data.table import UserTable
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard, tasks
from peftu.errors import PeftuError

FILES = (SourceFile(name="a.txt"), SourceFile(name="b.txt", optional=True))


class Moods:
    """Two users; the second label exists only with ``wide``."""

    card: ClassVar[TaskCard] = synthetic_card("multi").model_copy(
        update={"labels": ("calm", "glad"), "files": FILES, "presets": {"reference": {"wide": "yes", "share": 2}}}
    )

    @classmethod
    def variant(cls, wide: str, share: int) -> TaskCard:
        return cls.card.model_copy(update={"labels": ("calm", "glad", "sad")}) if wide == "yes" else cls.card

    def rows(self, raw: Path, wide: Literal["yes", "no"] = "no", share: int = 1) -> Iterator[Row | LeftOut]:
        (raw / "a.txt").read_text()
        for item in range(4):
            yield Row("u", f"i{item}", f"text {item}", ("calm", "glad"))
        yield Row("v", "i0", "text 0", ("sad",) if wide == "yes" else ("calm",))
        yield LeftOut("odd lines", 2)
        yield LeftOut("odd lines")
        yield LeftOut("things that do not occur", 0)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(tasks._loaded, "moods", Moods)
    (tmp_path / "raw").mkdir()
    for file in FILES:
        (tmp_path / "raw" / file.name).write_text("x")
    return tmp_path / "raw"


def test_a_preset_stands_for_its_values_and_yields_to_given_ones(raw: Path) -> None:
    assert task_options(Moods, {}) == {"wide": "no", "share": 1}
    assert task_options(Moods, {"preset": "reference"}) == {"wide": "yes", "share": 2}
    assert task_options(Moods, {"preset": "reference", "share": 3}) == {"wide": "yes", "share": 3}
    assert load_task("moods", raw, {"preset": "reference"}).options == {"wide": "yes", "share": 2}


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("moods", {"preset": "refrain"}, "unknown preset 'refrain' — did you mean 'reference'?"),
        ("movielens", {"preset": "reference"}, "unknown preset 'reference' — it has none"),
        ("moods", {"share": "two"}, "share='two' — give a whole number"),
        ("moods", {"share": True}, "share=True — give a whole number"),
        ("moods", {"share": 0}, "share=0 — give a number above 0"),
        ("moods", {"min_examples": "5"}, "min_examples='5' — give a whole number"),
        ("moods", {"wide": "maybe"}, "wide='maybe' — known: no, yes"),
        ("moods", {"min_examples": 9}, "no user has 9 examples (most: 4) — lower min_examples"),
    ],
)
def test_a_wrong_option_is_one_clear_line(raw: Path, task: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PeftuError) as caught:
        load_task(task, raw, options)
    assert said in str(caught.value)


def test_an_option_may_change_the_label_set(raw: Path) -> None:
    assert check_task(Moods, raw).card.labels == ("calm", "glad")
    wide = check_task(Moods, raw, {"wide": "yes"})
    assert wide.card.labels == ("calm", "glad", "sad")
    assert wide.hash != load_task("moods", raw).hash
    assert load_task("moods", raw, {"wide": "yes"}).card.labels == ("calm", "glad", "sad")


def test_what_is_left_out_is_counted_kept_and_shown(raw: Path) -> None:
    assert load_task("moods", raw).notes == {"odd lines": 3}
    assert load_task("moods", raw).notes == {"odd lines": 3}  # now from the cache
    assert commands.stats("moods", raw)["notes"] == {"odd lines": 3}
    assert commands.build("moods", raw)["notes"] == {"odd lines": 3}


def test_users_with_few_examples_are_left_out_and_counted(raw: Path, tmp_path: Path) -> None:
    table = load_task("moods", raw, {"min_examples": 2})
    assert table.frame["user_id"].unique().to_list() == ["u"]
    assert table.notes == {"odd lines": 3, "users with fewer than 2 examples": 1}
    assert table.options == {"wide": "no", "share": 1, "min_examples": 2}
    assert table.hash == UserTable.build(Moods.card, [r for r in Moods().rows(raw) if r[0] == "u"]).hash  # type: ignore[misc]
    assert UserTable.read(table.write(tmp_path / "t.parquet")).notes == table.notes
    assert load_task("moods", raw, {"min_examples": 1}).hash == load_task("moods", raw).hash


def test_a_file_that_may_be_missing_is_missed_aloud(raw: Path) -> None:
    whole = load_task("moods", raw)
    (raw / "b.txt").unlink()
    part = load_task("moods", raw)
    assert part.notes == {"odd lines": 3, "raw files that are not in the folder (b.txt)": 1}
    assert (part.hash, list(part.sources)) == (whole.hash, ["a.txt"])
    assert [file["name"] for file in commands.fetch("moods", raw)["files"]] == ["a.txt"]
    (raw / "a.txt").unlink()
    with pytest.raises(PeftuError, match=r"a\.txt is not in"):
        load_task("moods", raw)


def test_a_preset_of_presets_is_refused() -> None:
    card = synthetic_card().model_copy(update={"presets": {"reference": {"preset": "other"}}})
    with pytest.raises(PeftuError, match=r"card\.presets: reference: names a preset"):
        check_card(card)


ROW = Row("u", "i", "a", ("calm",))


def test_an_item_judged_again_is_kept_once() -> None:
    rows = [ROW, LeftOut("odd lines"), ROW, ROW._replace(target=("glad",)), ROW._replace(item_id="j")]
    left = [LeftOut("odd lines"), LeftOut(AGAIN), LeftOut(ANEW["first"])]
    assert list(once(rows)) == [*left, ROW, ROW._replace(item_id="j")]
    left[2] = LeftOut(ANEW["last"])
    assert list(once(rows, "last")) == [*left, ROW._replace(target=("glad",)), ROW._replace(item_id="j")]


def test_where_nothing_is_left_the_message_says_why() -> None:
    with pytest.raises(PeftuError, match=r"nothing is left \(odd lines: 1,200\) — loosen the task's options"):
        UserTable.build(synthetic_card(), [LeftOut("odd lines", 1200)])
