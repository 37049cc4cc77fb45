"""A place with tiny bases and made-up tasks, and one finished comparison."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import FREE, MANY, TASK, Said, peftu

from peftu.data.synthetic import SyntheticTask, synthetic_card, synthetic_rows
from peftu.data.task import tasks
from peftu.testing.bases import load_tiny, save_tiny


class SyntheticMulti:
    card = synthetic_card("multi")

    def rows(self, raw: Path) -> Iterator[Any]:
        yield from synthetic_rows(4, 20, "multi")


class SyntheticText:
    card = synthetic_card("text")

    def rows(self, raw: Path) -> Iterator[Any]:
        yield from synthetic_rows(4, 20, "text")


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with tiny bases and the made-up tasks' raw file; its own cache; the tasks registered."""
    home = tmp_path_factory.mktemp("place")
    for family in ("llama", "bert"):
        save_tiny(family, home / family)
    (home / "raw").mkdir()
    (home / "raw" / "none.txt").write_text("nothing is read\n")
    level = logging.getLogger("transformers").level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_loaded", {})
        for name, task in ((TASK, SyntheticTask), (MANY, SyntheticMulti), (FREE, SyntheticText)):
            tasks.add(name, task)
        patch.setenv("PEFTU_CACHE", str(home / "cache"))
        patch.setenv("COLUMNS", "80")
        patch.chdir(home)
        yield home
    logging.getLogger("transformers").setLevel(level)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of the comparison that several files begin with."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def compared(place: Path, cells: Path) -> Said:
    """A finished comparison of five methods over two seeds, in the folder 'run'."""
    methods = "user-majority,mixed-head@./bert,zero-shot,global[rank=1],lora[rank=2,targets=q+v]"
    said = peftu(
        *("compare", TASK, "--methods", methods, "--base", "./llama", "--raw", "raw", "--out", "run"),
        *("--seeds", 2, "--epochs", 2, "--region", "depth=1,span=answer", "--json", "--cells", cells),
    )
    assert said.code == 0, said.err
    return said


@pytest.fixture(scope="module")
def tiny_bases() -> Iterator[None]:
    """Bases of a fitted method are the tiny ones of `peftu.testing`, by the last part of their place."""

    def tiny_base(name: str, *given: Any) -> Any:
        base = load_tiny(Path(name).name, *given)
        base.name = name
        return base

    with pytest.MonkeyPatch.context() as patch:
        for room in ("peftu.lab.lab", "peftu.fitted.opening"):
            patch.setattr(f"{room}.load_base", tiny_base)
        yield
