"""The estimate before a run: bytes to the byte, and seconds that are the missing cells' work at measured rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from peftu.cells.cache import Cells
from peftu.cells.fits import Fits
from peftu.cells.plan import Planner
from peftu.cells.spec import CellSpec, Reading
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.problem import Problem
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.execute.estimate import Estimate, check, estimate, missing, work_of
from peftu.execute.probe import Probe, Sample, some_of
from peftu.experiment import method_list
from peftu.lab.progress import Silent
from peftu.plan import Job, plan
from peftu.testing import CPU, load_tiny

torch.set_num_threads(1)

TABLE = synthetic_table(users=200, items=40)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.lab.lab.load_base", load_tiny)


class Rates:
    """A machine on which everything has its price."""

    def __init__(self, row: float = 0.01, text: float = 0.0, fixed: float = 0.0, searched: float = 0.0) -> None:
        self.row, self.text, self.fixed, self.searched = row, text, fixed, searched
        self.now, self.measured = 0.0, list[CellSpec]()

    def __call__(self, spec: CellSpec) -> Sample:
        self.measured.append(spec)
        own, reading = self.fixed + self.row * work_of(spec), self.text * len(spec.problem.texts)
        self.now += own + reading
        return Sample(own, reading, self.searched * len(spec.users), 1000 * len(spec.users))

    def clock(self) -> float:
        return self.now


def shop(seeds: int = 1, users: int = 40) -> Fits:
    problems: dict[int, Problem] = {
        seed: make_problem(TABLE, TABLE.card, make_split(TABLE, SplitSpec(users=users), seed)) for seed in range(seeds)
    }
    return Fits(TABLE.card, problems, 64, Silent())


def jobs_of(methods: str, **spec: Any) -> list[Job]:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    return plan(RunSpec(task="any", methods=asked, base="llama", **spec))


def cells_of(jobs: Sequence[Job], fits: Fits) -> list[CellSpec]:
    return [
        spec
        for seed, problem in fits.problems.items()
        for job in jobs
        for spec in Planner(problem, seed, Reading(64), lambda _: ("x", CPU)).cells(job)
    ]


def groups_of(method: str, users: int) -> tuple[list[CellSpec], list[CellSpec]]:
    """Returns a method's cells, and those that they need."""
    specs = cells_of(jobs_of(method), shop(users=users))
    return specs, list(specs[0].needs)


def guess(methods: str, rates: Rates | None = None, seeds: int = 1, users: int = 40, **spec: Any) -> Estimate:
    fits, rates = shop(seeds, users), rates or Rates()
    specs = cells_of(jobs_of(methods, **spec), fits)
    return estimate(missing(specs, Cells(Path("nowhere"))), fits, rates, rates.clock)


@pytest.mark.parametrize("methods", ["lora[rank=2]", "global", "lora,global", "lora[warm_start=global,rank=1]"])
def test_bytes_are_those_that_will_be_stored(methods: str) -> None:
    fits = shop(seeds=2, users=3)
    jobs = jobs_of(methods, train={"epochs": 1})
    stored = 0
    for job in jobs:
        for seed in fits.problems:
            modules = fits.run(job, seed).modules
            assert modules is not None
            stored += modules.trained.rows.numel() * 4
    assert guess(methods, seeds=2, users=3, train={"epochs": 1}).module_bytes == stored


def test_seconds_grow_with_users_epochs_seeds_and_methods() -> None:
    plain = guess("lora")
    assert plain.users == 40
    assert guess("lora", seeds=2).seconds == pytest.approx(2 * plain.seconds)
    assert guess("lora", users=80).seconds == pytest.approx(2 * plain.seconds)
    assert guess("lora,ia3").seconds == pytest.approx(2 * plain.seconds)
    one, two, three = (guess(f"lora[epochs={epochs}]") for epochs in (1, 2, 3))
    assert three.seconds - two.seconds == pytest.approx(two.seconds - one.seconds)
    assert two.steps == 2 * one.steps > 0
    assert guess("lora", Rates(row=0.02)).seconds == pytest.approx(2 * plain.seconds)
    assert guess("global+lora").seconds > guess("global").seconds


def test_few_epochs_are_all_run_and_many_are_not() -> None:
    steps = {epochs: guess(f"lora[epochs={epochs},patience=3]").steps for epochs in (1, 3, 13)}
    assert steps[3] == 3 * steps[1]
    assert steps[13] == 8 * steps[1]


def test_what_is_there_already_costs_nothing(tmp_path: Path) -> None:
    fits, cells = shop(), Cells(tmp_path)
    lora, warm = cells_of(jobs_of("lora"), fits), cells_of(jobs_of("global+lora"), fits)
    with cells.parts() as parts:
        for spec in [*lora, *warm[0].needs]:
            (parts / spec.name).mkdir()
            cells.commit(spec.name, parts / spec.name, {})
    assert missing(lora, cells) == []
    assert missing([*lora, *warm], cells) == warm  # the module that it starts from is there
    assert missing(warm, Cells(tmp_path / "none")) == [*warm, *warm[0].needs]
    nothing = estimate([], fits, Rates())
    assert (nothing.users, nothing.steps, nothing.seconds, nothing.module_bytes) == (0, 0, 0.0, 0)


def test_texts_are_read_once_for_all_methods_that_read_the_same() -> None:
    rates = {"row": 1e-9, "text": 0.01}
    read = guess("lora", Rates(**rates)).seconds
    assert read == pytest.approx(0.01 * len(shop().lab.texts), rel=1e-3)
    assert guess("lora,ia3", Rates(**rates)).seconds == pytest.approx(read, rel=1e-3)
    assert guess("lora,ia3[depth=1]", Rates(**rates)).seconds == pytest.approx(2 * read, rel=1e-3)


def test_what_a_method_without_modules_does_once_is_not_taken_times_the_users() -> None:
    rows = guess("user-majority", Rates(row=1e-4), users=200).seconds
    assert guess("user-majority", Rates(row=1e-4, fixed=0.1), users=200).seconds == pytest.approx(rows + 0.1)


def test_a_search_over_some_users_stops_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.methods.mixed.MixedHead.search_users", 100)
    few, many = (guess("mixed-head", Rates(row=1e-9, searched=1.0), users=users).seconds for users in (80, 200))
    assert few == pytest.approx(80, rel=1e-3)
    assert many == pytest.approx(100, rel=1e-3)


def test_measuring_is_a_small_part_of_the_work() -> None:
    for method in ("lora", "global", "user-majority", "zero-shot"):
        cheap, dear = Rates(row=1e-9), Rates(row=1.0)
        guess(method, cheap, users=200)
        assert len(cheap.measured) > 2
        whole = max(sum(map(work_of, group)) for group in groups_of(method, users=200))
        assert work_of(cheap.measured[-1]) <= 0.05 * whole
        guess(method, dear, users=200)
        assert len(dear.measured) < len(cheap.measured)


def test_what_fails_while_it_is_measured_is_left_to_its_cell() -> None:
    def broken(_: CellSpec) -> Sample:
        raise RuntimeError("a bug")

    fits = shop()
    assert estimate(cells_of(jobs_of("lora"), fits), fits, broken).seconds == 0


def test_what_a_base_cannot_hold_is_refused_before_any_work() -> None:
    fits = shop(users=4)
    with pytest.raises(PeftuError, match="rank 17 is above the width 16 of the base's v maps — use rank=16 or less"):
        check(jobs_of("lora[rank=17]"), fits)
    with pytest.raises(PeftuError, match=r"full: 4 users' modules take 0.4 MB \([0-9,]+ numbers.*full\[max_users=4\]"):
        check(jobs_of("full"), fits)
    check(jobs_of("full[max_users=4],global[method=full]"), fits)


@pytest.mark.parametrize("method", ["lora", "global+lora", "user-embedding", "mixed-head", "zero-shot", "few-shot"])
def test_a_part_of_every_kind_of_cell_is_really_filled(method: str) -> None:
    fits = shop(users=6)
    (spec,) = cells_of(jobs_of(method), fits)
    for users in (0, 2):
        part = some_of(spec, users)
        assert len(part.users) == max(1, users)
        for cell in (part, *(some_of(need, users) for need in part.needs)):
            sample = Probe(fits)(cell)
            assert sample.seconds > 0
            assert (sample.searching > 0) <= (method == "mixed-head")
            assert sample.reading > 0 or method == "few-shot"  # which reads prompts, and no texts for others


def test_a_part_takes_one_step_of_each_user() -> None:
    fits = shop(users=6)
    (spec,) = cells_of(jobs_of("lora"), fits)
    part = some_of(spec, 3)
    assert part.job.train.epochs == 1
    assert (part.problem.part == 0).sum() == 3 * 8
    assert set(part.users) < set(spec.users)
    assert set(part.problem.texts) < set(spec.problem.texts)
