"""Modules trained on a problem's train rows, for each user, for everyone, or jointly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from peftu.bank import Layout
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.codes import CodeLayout, SharedLayout
from peftu.data.problem import Floats, Problem
from peftu.errors import DivergedError, PeftuError
from peftu.fitted.fitted import TaskAnswers
from peftu.fitted.modules import JointFitted, ModuleFitted
from peftu.fitted.offsets import addable, fit_offset
from peftu.fitted.reference import ReferenceFitted
from peftu.fitted.rows import MemoryRows
from peftu.lab.lab import Lab, items_of
from peftu.methods.joint import EncodingMethod, PopulationMethod
from peftu.plan import Job, is_joint
from peftu.predict import score
from peftu.store import EVERYONE
from peftu.train import Trained, train
from peftu.train_effects import with_population
from peftu.train_joint import train_jointly
from peftu.train_rows import Examples, Unit

BYTES_PER_NUMBER = 4  # modules are float32


@dataclass(frozen=True)
class Modules:
    """Trained module rows, the keys they belong to, and what they were trained as.

    Attributes:
        layout: of the rows.
        region: where the modules act.
        trained: the rows, and how training went.
        keys: whose each row is.
        train_rows: number of rows that each was trained on.
        shared: [numbers] what the rows of a joint method are read with.
    """

    layout: Layout
    region: Region
    trained: Trained
    keys: tuple[str, ...]
    train_rows: tuple[int, ...]
    shared: torch.Tensor | None = None

    @property
    def diverged(self) -> int:
        """Returns for how many keys training came to numbers that are not finite, so that they have their start."""
        return sum(log.diverged for log in self.trained.logs)

    @property
    def learned(self) -> "Modules":
        """Returns the modules of all keys whose training did not diverge."""
        if self.shared is not None or not self.diverged:  # trained as one, or nothing to leave out
            return self
        kept = [place for place, log in enumerate(self.trained.logs) if not log.diverged]
        trained = Trained(self.trained.rows[kept], [self.trained.logs[place] for place in kept])
        keys, counts = tuple(self.keys[p] for p in kept), tuple(self.train_rows[p] for p in kept)
        return Modules(self.layout, self.region, trained, keys, counts)

    @property
    def rows(self) -> MemoryRows:
        """Returns the rows by key."""
        return MemoryRows(self.keys, self.trained.rows, self.train_rows)


def layout_of(job: Job, lab: Lab, prompt: Prompt, users: int) -> Layout:
    """Returns the layout of a job's modules; of a joint method, of what is shared.

    Raises:
        PeftuError: the base cannot host the method, or there are more users than the method is meant for.
    """
    base = lab.base(cast(str, job.base))
    sites = base.sites(job.region_on(base), len(prompt.words))
    layout = SharedLayout(job.method, sites) if is_joint(job.method) else Layout(job.method, sites)
    users = 1 if job.card.scope == "global" else users
    most = getattr(job.method, "max_users", users)
    if users > most:
        size = users * layout.width * BYTES_PER_NUMBER / 1e6
        raise PeftuError(
            f"method {job.card.name}: {users} users' modules take {size:,.1f} MB ({layout.width:,} numbers each) — "
            f"take fewer with --users, or {job.card.name}[max_users={users}]"
        )
    return layout


def fit_untrained(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> tuple[ModuleFitted, None]:
    """Returns the base as it is, beside the job's offset where it has one, and that it has no modules."""
    region, offset = job.region_on(lab.base(cast(str, job.base))), fitted_offset(problem, job, seed, lab, prompt)
    return ModuleFitted(job, TaskAnswers.of(problem.card), seed, lab, prompt, region, offset=offset), None


def fit_modules(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> tuple[ModuleFitted, Modules]:
    """Returns a module of each user's own, or one for everyone, and how training went.

    Users whose training diverged have their start, to be scored by; `Modules.learned` leaves them out.

    Raises:
        DivergedError: training on everyone diverged.
    """
    start = None
    if job.card.scope == "global":
        modules = fit_everyone(problem, job, seed, lab, prompt)
    else:
        start = None if job.start is None else fit_everyone(problem, job.start, seed, lab, prompt).trained.rows[0]
        units = units_of(problem, rows_of(problem, lab), offsets_of(problem, job, seed, lab, prompt))
        modules = _trained(problem, job, seed, lab, prompt, units, f"training {job.label}", start)
    notes: dict[str, Any] = {"region": str(modules.region), "module_parameters": modules.layout.parameters}
    if modules.diverged:
        notes["diverged"] = f"{modules.diverged} users, scored by {job.untrained} and not stored"
        lab.reporter.note(f"{job.label}: training diverged for {notes['diverged']} — lower lr")
    return ModuleFitted(
        job, TaskAnswers.of(problem.card), seed, lab, prompt, modules.region, modules.rows, start, notes,
        fitted_offset(problem, job, seed, lab, prompt),
    ), modules  # fmt: skip


def fit_everyone(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> Modules:
    """Returns the module trained on everyone for a global job; made once for all methods that start from it.

    Raises:
        DivergedError: its training diverged.
    """

    def make() -> Modules:
        everyone = everyone_of(problem, rows_of(problem, lab), offsets_of(problem, job, seed, lab, prompt))
        modules = _trained(problem, job, seed, lab, prompt, (everyone,), "training on everyone")
        if modules.diverged:
            raise diverged(job)
        return modules

    return lab.memo.get(everyone_key(problem, job, seed), make)


def everyone_key(problem: Problem, job: Job, seed: int) -> tuple[str, ...]:
    """Returns what a lab knows the module trained on everyone by."""
    return ("everyone", problem.split_hash, repr(job.resolved()), str(seed))


def fit_joint(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> tuple[JointFitted, Modules]:
    """Returns what all share and each user's code, and how training went.

    Raises:
        DivergedError: training diverged.
    """
    base = lab.base(cast(str, job.base))
    region, offsets = job.region_on(base), offsets_of(problem, job, seed, lab, prompt)
    units = units_of(problem, rows_of(problem, lab), offsets)
    context = lab.context(base.name, prompt, region)
    layout = cast(SharedLayout, layout_of(job, lab, prompt, len(problem.users)))
    vectors = None
    if isinstance(job.method, EncodingMethod):
        vectors = torch.from_numpy(lab.embed(base.name, prompt, lab.texts))
    progress = lab.reporter.stage(f"training {job.label}", sum(len(unit.train) for unit in units) * job.train.epochs)
    joint = train_jointly(base, context, layout, units, job.train, seed, vectors, progress)
    if joint.log.diverged:
        raise diverged(job)
    shared, learned, codes = joint.shared, joint.codes, CodeLayout(layout, joint.shared)
    if isinstance(job.method, PopulationMethod):
        shared, learned = with_population(base, context, codes, units, learned)
        codes = CodeLayout(layout, shared)
    counts = tuple(len(unit.train) for unit in units)
    modules = Modules(codes, region, Trained(learned, [joint.log]), problem.users, counts, shared)
    notes = {"region": str(region), "shared_parameters": layout.parameters}
    return JointFitted(
        job, TaskAnswers.of(problem.card), seed, lab, prompt, region, modules.rows, shared, notes,
        fitted_offset(problem, job, seed, lab, prompt),
    ), modules  # fmt: skip


def rows_of(problem: Problem, lab: Lab) -> npt.NDArray[np.int64]:
    """Returns [N] each row's number in the contexts: of its text or, where answers are free, of its answer."""
    return np.array([lab.number[item] for item in items_of(problem)], dtype=np.int64)


def fitted_offset(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> ReferenceFitted | None:
    """Returns the fitted method that a job's modules' scores are added to, if there is one."""
    return None if job.offset is None else fit_offset(problem, job.offset, seed, lab, prompt).fitted


def offsets_of(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> Floats | None:
    """Returns [N, labels] what is added to the scores of a job's modules, if anything is."""
    if job.offset is None:
        return None
    offset, base = fit_offset(problem, job.offset, seed, lab, prompt), lab.base(cast(str, job.base))
    context = lab.context(base.name, prompt, job.region_on(base))
    return addable(offset.of(problem), score(base, context, rows_of(problem, lab)), prompt)


def units_of(problem: Problem, rows: npt.NDArray[np.int64], offsets: Floats | None = None) -> list[Unit]:
    """Returns every user with their train and validation rows, given `rows_of` and `offsets_of`."""
    parts = {part: problem.rows(part) for part in ("train", "val")}
    grouped = {part: _by_user(chosen, problem.user[chosen], len(problem.users)) for part, chosen in parts.items()}
    return [
        Unit(key, *(examples_of(problem, rows, grouped[part][user], offsets) for part in ("train", "val")))
        for user, key in enumerate(problem.users)
    ]


def examples_of(
    problem: Problem, rows: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], offsets: Floats | None = None
) -> Examples:
    """Returns some rows of a problem as examples."""
    weight = np.ones(len(chosen), dtype=np.float32)
    return Examples(rows[chosen], problem.target[chosen], weight, None if offsets is None else offsets[chosen])


def everyone_of(problem: Problem, rows: npt.NDArray[np.int64], offsets: Floats | None = None) -> Unit:
    """Returns all users as one unit: a distinct text once, with its labels' shares and its number of judgements.

    The summed cross-entropy is the same as over the single judgements, at a fraction of the work. With offsets, which
    differ from user to user, the judgements stay single.
    """
    parts = []
    for part in ("train", "val"):
        chosen = problem.rows(part)
        if offsets is not None:
            parts.append(examples_of(problem, rows, chosen, offsets))
            continue
        items, back, count = np.unique(rows[chosen], return_inverse=True, return_counts=True)
        share = np.zeros((len(items), problem.target.shape[1]), dtype=np.float32)
        np.add.at(share, back, problem.target[chosen])
        weight = count.astype(np.float32)
        parts.append(Examples(items, np.asarray(share / weight[:, None], dtype=np.float32), weight))
    return Unit(EVERYONE, *parts)


def diverged(job: Job) -> DivergedError:
    """Returns the error of a training on everyone that diverged."""
    return DivergedError(f"method {job.label}: training on everyone diverged at lr={job.train.lr:g} — lower lr")


def _trained(
    problem: Problem,
    job: Job,
    seed: int,
    lab: Lab,
    prompt: Prompt,
    units: Sequence[Unit],
    stage: str,
    start: torch.Tensor | None = None,
) -> Modules:
    base = lab.base(cast(str, job.base))
    region = job.region_on(base)
    context = lab.context(base.name, prompt, region)
    layout = layout_of(job, lab, prompt, len(problem.users))
    progress = lab.reporter.stage(stage, sum(len(unit.train) for unit in units) * job.train.epochs)
    trained = train(base, context, layout, units, job.train, seed, start, progress, lab.reporter.note)
    counts = tuple(round(float(unit.train.weight.sum())) for unit in units)
    return Modules(layout, region, trained, tuple(unit.key for unit in units), counts)


def _by_user(rows: npt.NDArray[np.int64], users: npt.NDArray[np.integer], number: int) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(users, kind="stable")
    return np.split(rows[order], np.searchsorted(users[order], np.arange(1, number)))
