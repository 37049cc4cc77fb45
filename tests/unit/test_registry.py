"""Registries: lazy, typo-friendly, open to other packages."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from peftu import registry as module
from peftu.data.task import tasks
from peftu.errors import PeftuError
from peftu.registry import Registry, did_you_mean


def test_entries_are_imported_when_asked_for() -> None:
    names: Registry[object] = Registry("thing", {"path": "pathlib:Path", "broken": "no.such.module:X"})
    assert names.names() == ["broken", "path"]
    assert names.get("path").__name__ == "Path"  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError):
        names.get("broken")


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(PeftuError, match=r"^unknown task 'tweetevel' — did you mean 'tweeteval'\?$"):
        tasks.get("tweetevel")
    with pytest.raises(PeftuError, match=r"^unknown thing 'zzz' — known: a, b$"):
        Registry[object]("thing", {"b": "x:y", "a": "x:y"}).get("zzz")
    assert did_you_mean("cat", []) == " — known: none"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("re", "'reviews' or 'reviews-2024'"),
        ("review", "'reviews' or 'reviews-2024'"),
        ("REVIEWS-2023", "'reviews-2024'"),
        ("Tweets", "'TWEETS'"),
        ("t", "'TWEETS' or 'to' or 'to-be' or …"),
        ("twets", "'TWEETS'"),
        ("two", "'to'"),
    ],
)
def test_what_begins_so_is_suggested_before_what_is_close(typed: str, said: str) -> None:
    known = ["reviews-2024", "reviews", "TWEETS", "to", "to-be", "toy"]
    assert did_you_mean(typed, known) == f" — did you mean {said}?"
    assert did_you_mean("", known) == f" — known: {', '.join(sorted(known))}"


def test_objects_can_be_added_and_win() -> None:
    names: Registry[object] = Registry("thing", {"a": "no.such:thing"})
    names.add("a", 1)
    names.add("b", 2)
    assert [names.get("a"), names.get("b")] == [1, 2]
    assert "b" in names
    assert "c" not in names
    assert names.names() == ["a", "b"]


def test_other_packages_add_by_entry_points_but_do_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("a", "os:sep", "peftu.things"), EntryPoint("new", "os:linesep", "peftu.things")]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == "peftu.things" else [])
    assert Registry[object]("family", {}).group == "peftu.families"
    names: Registry[object] = Registry("thing", {"a": "os:curdir"})
    assert names.names() == ["a", "new"]
    assert names.get("a") == "."
    assert names.get("new") == "\n"


class Folder:
    """A finder whose names come and go."""

    def __init__(self) -> None:
        self.found: dict[str, object] = {}

    def names(self) -> list[str]:
        return list(self.found)

    def find(self, name: str) -> object | None:
        return self.found.get(name)


folder = Folder()


def test_finders_are_asked_for_names_that_nothing_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "found", {"a": "hidden", "b": "found"})
    names: Registry[object] = Registry("thing", {"a": "os:curdir"}, finders=(f"{__name__}:folder",))
    assert (names.names(), names.get("a"), names.get("b")) == (["a", "b"], ".", "found")
    assert "b" in names
    assert (names.is_own("a"), names.is_own("b")) == (True, False)
    folder.found = {"b": "another", "c": "new"}
    assert (names.names(), names.get("b")) == (["a", "b", "c"], "another")
    with pytest.raises(PeftuError, match=r"^unknown thing 'd'"):
        names.get("d")
    assert "d" not in names


def test_a_finder_is_imported_when_asked_for() -> None:
    Registry[object]("thing", {"a": "os:curdir"}, finders=("no.such:finder",)).is_own("a")


def test_every_known_task_can_be_imported() -> None:
    for name in tasks.names():
        assert tasks.get(name).card.name == name


def test_importing_the_data_layer_needs_no_torch() -> None:
    code = "import sys, peftu.data.commands; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
