"""The driver, with an executor that fails as it is told: every user is in the end where they belong."""

import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.cells.cache import PARTS, Cells
from peftu.cells.plan import Planner
from peftu.cells.spec import CellSpec, Reading
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.executors.executor import Failure, Filled, Outcome, Task
from peftu.executors.schedule import Driver, OutOfTimeError
from peftu.plan import plan
from peftu.testing import CPU

Kind = Literal["input", "error", "died", "full"]
KINDS: list[Kind] = ["error", "died"]  # that may be for a user's sake


class Told:
    """An executor that gives the outcomes it is told to, in any order.

    Attributes:
        submitted: every task.
    """

    def __init__(self, outcome: Callable[[CellSpec], Kind | None], slots: int = 1, order: int = 0) -> None:
        self.slots, self.elsewhere, self._outcome, self._random = slots, True, outcome, random.Random(order)  # noqa: S311
        self.submitted: list[Task] = []
        self._flying: list[Task] = []

    def submit(self, task: Task) -> None:
        self.submitted.append(task)
        self._flying.append(task)
        assert len(self._flying) <= self.slots

    def next(self) -> tuple[Task, Outcome]:
        task = self._flying.pop(self._random.randrange(len(self._flying)))
        if kind := self._outcome(task.spec):
            return task, Failure(kind, f"by {kind}")
        (task.part / "scores").write_text(task.spec.name)
        return task, Filled({})

    def close(self) -> None:
        pass


@cache
def cells_of(method: str, users: int = 16) -> list[CellSpec]:
    table = synthetic_table(users, 10)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    planner = Planner(problem, 0, Reading(64), lambda _: ("tiny", CPU))
    jobs = plan(RunSpec(task="any", methods=(MethodSpec.parse(method),)))
    return [cell for job in jobs for cell in planner.cells(job)]


def quarters_of(users: tuple[str, ...]) -> list[set[str]]:
    middle = len(users) // 2
    halves = (users[:middle], users[middle:])
    return [{*part} for half in halves for part in (half[: len(half) // 2], half[len(half) // 2 :]) if part]


@settings(deadline=None)
@given(st.sets(st.integers(0, 15), max_size=9), st.integers(1, 4), st.integers(0, 99), st.sampled_from(KINDS))
def test_who_breaks_a_shard_is_alone_in_the_end(numbers: set[int], slots: int, order: int, kind: Kind) -> None:
    (wanted,) = cells_of("lora")
    breaking = {wanted.users[number] for number in numbers}
    executor = Told(lambda spec: kind if spec.part == "scores" and breaking & {*spec.users} else None, slots, order)
    with TemporaryDirectory() as home:
        filling = Driver(Cells(Path(home)), executor).fill([wanted])[wanted.name]
        again = Told(executor._outcome, slots, order)
        if filling.filled:
            Driver(Cells(Path(home)), again).fill([wanted])
    if all(breaking & quarter for quarter in quarters_of(wanted.users)):
        assert filling.failure == Failure(kind, f"by {kind}")  # it is not for a user's sake
        return
    assert filling.failure is None
    assert sorted(user for spec, _ in filling.pieces for user in spec.users) == sorted(wanted.users)
    assert {user for spec, _ in filling.pieces if spec.part == "without" for user in spec.users} == breaking
    assert filling.broken == len(breaking)
    attempts = len(executor.submitted)
    assert attempts <= 1 + len(breaking) * (3 * math.ceil(math.log2(16)) + 4)
    done = {spec.name for spec, _ in filling.pieces}
    assert not done & {task.spec.name for task in again.submitted}  # a run that goes on fills none of it twice


@settings(deadline=None)
@given(st.integers(1, 7), st.data())
def test_few_users_are_all_somewhere_too(users: int, data: st.DataObject) -> None:
    (wanted,) = cells_of("lora", users)
    breaking = data.draw(st.sets(st.sampled_from(wanted.users)))
    unscored = data.draw(st.sets(st.sampled_from(wanted.users)))

    def outcome(spec: CellSpec) -> Kind | None:
        return "error" if (unscored if spec.part == "without" else breaking) & {*spec.users} else None

    executor = Told(outcome, data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99)))
    with TemporaryDirectory() as home:
        filling = Driver(Cells(Path(home)), executor).fill([wanted])[wanted.name]
    if filling.failure is None:
        assert sorted(user for spec, _ in filling.pieces for user in spec.users) == sorted(wanted.users)
        assert {user for spec, cell in filling.pieces if cell is None for user in spec.users} == breaking & unscored
    else:
        assert all(breaking & quarter for quarter in quarters_of(wanted.users))
        assert users > 3


def test_a_failure_that_passes_is_tried_again_elsewhere() -> None:
    (wanted,) = cells_of("lora")
    outcomes = iter(["died", None])
    executor = Told(lambda _: next(outcomes))
    with TemporaryDirectory() as home:
        filling = Driver(Cells(Path(home)), executor).fill([wanted])[wanted.name]
    assert filling.filled
    assert [task.spec.name for task in executor.submitted] == [wanted.name] * 2


def test_what_the_user_can_mend_is_not_tried_again(tmp_path: Path) -> None:
    (wanted,) = cells_of("lora")
    executor = Told(lambda _: "input")
    assert Driver(Cells(tmp_path), executor).fill([wanted])[wanted.name].failure == Failure("input", "by input")
    assert len(executor.submitted) == 1


def test_what_is_needed_comes_first_and_its_failure_is_everybody_s(tmp_path: Path) -> None:
    warm = cells_of("lora[warm_start=global]")
    executor = Told(lambda _: None, slots=3)
    Driver(Cells(tmp_path / "good"), executor).fill(warm)
    (start,) = warm[-1].needs
    assert [task.spec.name for task in executor.submitted] == [start.name, warm[-1].name]
    assert executor.submitted[1].needs == {start.name: tmp_path / "good" / start.name}
    executor = Told(lambda spec: "error" if spec.part == "everyone" else None)
    fillings = Driver(Cells(tmp_path / "bad"), executor).fill(warm)
    assert fillings[warm[-1].name].failure == Failure("error", "by error")
    assert {task.spec.part for task in executor.submitted} == {"everyone"}


def test_a_full_disk_ends_the_run_and_what_is_there_stays(tmp_path: Path) -> None:
    good, bad = cells_of("lora")[0], cells_of("bitfit")[0]
    executor = Told(lambda spec: "full" if spec.name == bad.name else None)
    with pytest.raises(PeftuError, match=r"no space left on disk — free some, or choose another folder with --cells"):
        Driver(Cells(tmp_path), executor).fill([good, bad])
    assert Cells(tmp_path).find(good.name) is not None
    assert [path.name for path in (tmp_path / PARTS).iterdir() if path.name != "lock"] == []


def test_out_of_time_begins_nothing_and_counts_what_is_left(tmp_path: Path) -> None:
    good, late = cells_of("lora")[0], cells_of("bitfit")[0]
    Driver(Cells(tmp_path), Told(lambda _: None)).fill([good])
    executor = Told(lambda _: None)
    with pytest.raises(OutOfTimeError, match=r"^1 of 2 cells are left$"):
        Driver(Cells(tmp_path), executor, deadline=0).fill([good, late])
    assert executor.submitted == []


def test_a_cell_that_is_there_is_taken_and_what_it_needed_is_not_made_for_it(tmp_path: Path) -> None:
    (warm,) = cells_of("lora[warm_start=global]")
    cells = Cells(tmp_path)
    Driver(cells, Told(lambda _: None)).fill([warm])
    cells.drop(warm.needs[0].name)
    executor, there = Told(lambda _: None), list[bool]()
    Driver(cells, executor, lambda _spec, _cell, before: there.append(before)).fill([warm])
    assert executor.submitted == []
    assert there == [True]
