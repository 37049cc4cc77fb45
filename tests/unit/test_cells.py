"""The folder of cells: whole or not there, whoever writes, and however it ends."""

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from peftu.cells import cache
from peftu.cells.cache import CELL, PARTS, USERS, Cells
from peftu.errors import PeftuError

NAMES = [f"{number:032x}" for number in range(12)]


def put(cells: Cells, name: str, users: tuple[str, ...] = ("anna",), content: str = "scores") -> None:
    with cells.parts() as parts:
        part = parts / name
        part.mkdir()
        if users:  # polars cannot be used in a forked process
            pl.DataFrame({"user_id": users}).write_parquet(part / USERS)
        (part / "scores").write_text(content)
        cells.commit(name, part, {"users": len(users)})


def test_a_cell_is_there_whole_and_says_what_it_holds(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells")
    assert cells.find(NAMES[0]) is None
    put(cells, NAMES[0])
    stored = cells.find(NAMES[0])
    assert stored is not None
    assert stored.about["users"] == 1
    assert set(stored.about["files"]) == {USERS, "scores"}
    assert list((cells.folder / PARTS).iterdir()) == []
    put(cells, NAMES[0], content="of another process")
    assert (stored.folder / "scores").read_text() == "scores"


def alter(folder: Path) -> None:
    (folder / "scores").write_text("better scores")


def list_altered(folder: Path) -> None:
    about = json.loads((folder / CELL).read_bytes())
    (folder / CELL).write_text(json.dumps(about | {"files": {}}))


@pytest.mark.parametrize(
    "damage",
    [
        alter,
        list_altered,
        lambda folder: (folder / "scores").unlink(),
        lambda folder: (folder / CELL).unlink(),
        lambda folder: (folder / CELL).write_text("[" * 5000),
        lambda folder: (folder / "more").write_text(""),
    ],
    ids=["altered", "list altered", "a file gone", "no list", "a list that is none", "a file more"],
)
def test_a_damaged_cell_is_not_there_and_can_be_filled_again(damage: Any, tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    put(cells, NAMES[0])
    damage(tmp_path / NAMES[0])
    assert cells.find(NAMES[0]) is None
    assert not (tmp_path / NAMES[0]).exists()
    put(cells, NAMES[0])
    assert cells.find(NAMES[0]) is not None


def fill_all(folder: Path, number: int, gate: Any) -> None:
    cells = Cells(folder)
    gate.wait()
    for name in NAMES[number % 3 :] + NAMES[: number % 3]:
        put(cells, name, (), str(number) * 10_000)
        if number == 7:  # one of them damages what is there
            (folder / name / "scores").write_text("torn")


def test_eight_processes_fill_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(8)
    processes = [context.Process(target=fill_all, args=(tmp_path, number, gate)) for number in range(7)]
    processes.append(context.Process(target=fill_all, args=(tmp_path, 7, gate)))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes[:7]] == [0] * 7
    cells = Cells(tmp_path)
    for name in NAMES:
        if cells.find(name) is None:
            put(cells, name)
        content = (tmp_path / name / "scores").read_text()
        assert content == "scores" or len(content) == 10_000
        assert len(set(content)) == 1 or content == "scores"  # one process's, whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != PARTS) == NAMES
    assert [path.name for path in (tmp_path / PARTS).iterdir() if path.name != "lock"] == []


def test_what_dead_processes_left_goes_and_what_is_being_filled_stays(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    with cells.parts() as mine:
        (mine / "half").mkdir()
        left = tmp_path / PARTS / "left"
        left.mkdir()
        with Cells(tmp_path).parts():
            assert not left.exists()
            assert (mine / "half").is_dir()


def test_forgetting_takes_every_cell_made_with_a_user_s_rows(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    put(cells, NAMES[0], ("anna", "berta"))
    put(cells, NAMES[1], ("berta",))
    put(cells, NAMES[2], ("anna",))
    (tmp_path / NAMES[2] / USERS).unlink()  # cannot tell
    assert cells.forget("anna") == 2
    assert cells.names() == [NAMES[1]]
    assert cells.forget("anna") == 0
    assert Cells(tmp_path / "none").forget("anna") == 0


def test_the_longest_unused_give_way(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    for age, name in enumerate(NAMES[:5]):
        put(cells, name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert cells.names() == NAMES[4::-1]
    cells.find(NAMES[4])  # of use again
    size = sum(path.stat().st_size for path in (tmp_path / NAMES[0]).iterdir())
    assert cells.trim({NAMES[3]}, 3 * size) == 2
    assert set(cells.names()) == {NAMES[0], NAMES[3], NAMES[4]}
    assert cells.trim((), 3 * size) == 0


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "no space left on disk — free some, or choose another folder with --cells"),
        (errno.EROFS, "cannot be written — mend its rights, or choose another folder with --cells"),
    ],
)
def test_a_disk_that_takes_nothing_is_a_line_and_leaves_nothing(
    number: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Cells(tmp_path)
    put(cells, NAMES[0])

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "write_atomic", fail)
    with pytest.raises(PeftuError, match=line):
        put(cells, NAMES[1])
    assert cells.find(NAMES[0]) is not None
    assert cells.find(NAMES[1]) is None
    assert list((tmp_path / PARTS).iterdir()) == []
