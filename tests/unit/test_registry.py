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
    assert did_you_mean("cat", []) == " — known: "


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
    names: Registry[object] = Registry("thing", {"a": "os:curdir"})
    assert names.names() == ["a", "new"]
    assert names.get("a") == "."
    assert names.get("new") == "\n"


def test_every_known_task_can_be_imported() -> None:
    for name in tasks.names():
        assert tasks.get(name).card.name == name


def test_importing_the_data_layer_needs_no_torch() -> None:
    code = "import sys, peftu.data.commands; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
