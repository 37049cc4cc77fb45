"""Which cells a job needs at one seed: one for each shard of users where their fits do not touch, else one for all."""

from collections.abc import Callable

from peftu.cells.spec import DIVISIBLE, BaseIdentity, CellSpec, Reading
from peftu.data.problem import Problem
from peftu.data.shards import part_of, shards
from peftu.plan import Job, is_module, kind_of


class Planner:
    """Cells of one problem.

    Args:
        problem: a task after its split.
        seed: of the split and the fits.
        reading: how texts are read.
        identity: of a base, given its name.
    """

    def __init__(self, problem: Problem, seed: int, reading: Reading, identity: Callable[[str], BaseIdentity]) -> None:
        self.problem, self.seed, self.reading, self.identity = problem, seed, reading, identity
        self.shards = [part_of(problem, users) for users in shards(problem.users)]

    def cells(self, job: Job) -> list[CellSpec]:
        """Returns the cells of a job, a shard each; what is fitted on everyone first is among their needs."""
        shared = job if is_module(job.method) and job.card.scope == "global" else job.start
        needs = () if job.offset is None else (self._spec(job.offset, self.problem, "offset"),)
        if shared is not None:
            needs = (self._spec(shared, self.problem, "everyone", needs), *needs)
        parts = self.shards if kind_of(job.method) in DIVISIBLE else [self.problem]
        return [self._spec(job, part, needs=needs) for part in parts]

    def _spec(self, job: Job, problem: Problem, part: str = "scores", needs: tuple[CellSpec, ...] = ()) -> CellSpec:
        base = None if job.base is None else self.identity(job.base)
        return CellSpec(job, self.seed, problem, self.reading, base, part, needs)  # type: ignore[arg-type]
