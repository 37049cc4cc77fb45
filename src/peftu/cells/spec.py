"""What a cell is, before it is filled: one job at one seed for one shard of users, and all that decides its numbers."""

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from peftu.cells.numerics import code_of, numerics
from peftu.config import HardwareSpec
from peftu.data.problem import Problem
from peftu.data.shards import digest_of
from peftu.plan import Job, kind_of

FORMAT = 1
Part = Literal["scores", "everyone", "offset", "without"]
BaseIdentity = tuple[str, HardwareSpec]
DIVISIBLE = ("module", "untrained")  # kinds of method whose users do not touch each other


@dataclass(frozen=True)
class Reading:
    """How a run reads texts, the same in all its cells; see `peftu.config.RunSpec`."""

    max_tokens: int
    answer_tokens: int = 128
    writes: bool = False


@dataclass(frozen=True)
class CellSpec:
    """One cell.

    Attributes:
        job: the method with its knobs, base, region and train settings.
        seed: of the split and the fit.
        problem: the shard's users with their rows and texts.
        reading: how texts are read.
        base: fingerprint of the job's base, and where it computes in which numbers; None: it has none.
        part: 'scores': fitted, and scored on validation and test rows. 'everyone', 'offset': the module trained on
            everyone, and the method that modules' scores are added to, which other cells need. 'without': scored as if
            nothing had been trained for these users.
        needs: the cells of which the results go into this one.
    """

    job: Job
    seed: int
    problem: Problem
    reading: Reading
    base: BaseIdentity | None = None
    part: Part = "scores"
    needs: tuple["CellSpec", ...] = ()

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the shard's users."""
        return self.problem.users

    @cached_property
    def texts(self) -> str:
        """Returns a digest of the texts that it reads: cells of the same texts share what is read of them."""
        rows = [[*text] for text in self.problem.texts]
        answers = list(self.problem.answers)
        return hashlib.sha256(json.dumps([rows, answers]).encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def decides(self) -> dict[str, Any]:
        """Returns everything that decides the cell's numbers, as JSON values."""
        jobs = (self.job, self.job.start, self.job.offset)
        code = [code_of(job.method) for job in jobs if job is not None]
        return {
            "format": FORMAT,
            "numerics": numerics(),
            "code": code if None not in code else uuid.uuid4().hex,
            "job": self.job.resolved(),
            "seed": self.seed,
            "part": self.part,
            "data": digest_of(self.problem),
            "reading": dataclasses.asdict(self.reading),
            "base": self._base,
            "needs": [need.name for need in self.needs],
        }

    @property
    def _base(self) -> list[str] | None:
        """Returns what of the base decides numbers; its device changes rounding alone, and is recorded in the cell."""
        return None if self.base is None else [self.base[0], self.base[1].dtype, self.base[1].quantize]

    @cached_property
    def name(self) -> str:
        """Returns 32 hex digits that name the cell."""
        return hashlib.sha256(json.dumps(self.decides, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def divisible(self) -> bool:
        """Returns whether its users could as well be in several cells."""
        return self.part == "scores" and kind_of(self.job.method) in DIVISIBLE
