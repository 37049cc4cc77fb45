"""What modules' scores are added to: another method's, which does without modules.

A module learns what that method cannot say, so a training row's offset is of a fit that has not seen the row. The
base's own scores are taken off, so that a module of zeros leaves the method's answers as they are.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.answers import log_odds
from peftu.bank import derived_seed
from peftu.base.prompt import Prompt
from peftu.data.problem import PARTS, Floats, Problem
from peftu.fitted.fitted import Examples
from peftu.fitted.reference import ReferenceFitted, fit_reference
from peftu.lab.lab import Lab, items_of
from peftu.methods.method import SearchingMethod
from peftu.plan import Job

FOLDS = 5
CERTAIN = 1e-7  # of a log-probability: nearer to 0 float32 does not come
ROW = {"user_id": pl.String(), "item_id": pl.String()}
SCHEMA = {**ROW, "scores": pl.List(pl.Float32)}
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Offset:
    """A fitted method that modules' scores are added to.

    Attributes:
        fitted: answers for any user and text.
        scores: user_id, item_id and ``scores``, log-probabilities of each label: of a training row by a fit without it.
    """

    fitted: ReferenceFitted
    scores: pl.DataFrame

    def of(self, problem: Problem) -> Floats:
        """Returns [N, labels] the scores of a problem's rows: of the one that it was fitted on, or of a part of it."""
        users = [problem.users[number] for number in problem.user]
        rows = pl.DataFrame({"user_id": users, "item_id": list(problem.item_ids)}, schema=ROW)
        scores = rows.join(self.scores, on=list(ROW), how="left", maintain_order="left")["scores"]
        return np.array(scores.to_list(), dtype=np.float32).reshape(len(rows), -1)


def fit_offset(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> Offset:
    """Returns a method without modules fitted on a problem, with its scores of all rows; made once in a lab."""
    return lab.memo.get(offset_key(problem, job, seed), lambda: _fit(problem, job, seed, lab, prompt))


def offset_key(problem: Problem, job: Job, seed: int) -> tuple[str, ...]:
    """Returns what a lab knows an offset by."""
    return ("offset", problem.split_hash, repr(job.resolved()), str(seed))


def _fit(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> Offset:
    fitted, _ = fit_reference(problem, job, seed, lab, prompt)
    users, items = [problem.users[number] for number in problem.user], items_of(problem)
    scores = fitted.read(users, items)
    if isinstance(job.method, SearchingMethod):  # what was chosen on all rows holds for a part of them
        job = replace(job, method=job.method.settled(fitted.model))
    for rows in folds(problem, seed):
        part = problem.part.copy()
        part[rows] = PARTS.index("test")
        without, _ = fit_reference(replace(problem, part=part), job, seed, lab, prompt)
        scores[rows] = without.read([users[row] for row in rows], [items[row] for row in rows])
    columns = {"user_id": users, "item_id": list(problem.item_ids), "scores": scores.tolist()}
    return Offset(fitted, pl.DataFrame(columns, schema=SCHEMA))


def folds(problem: Problem, seed: int) -> list[Places]:
    """Returns the training rows in parts of about a fifth: of each user's or, where texts are new, of the texts."""
    train, held_out = problem.rows("train"), np.flatnonzero(problem.part > 0)
    rng = np.random.Generator(np.random.PCG64(derived_seed(seed, "folds")))
    if len(train) and len(held_out) and not np.isin(problem.text[held_out], problem.text[train]).any():
        fold = rng.permutation(len(problem.texts))[problem.text[train]] % FOLDS
    else:
        order = np.lexsort((rng.permutation(len(train)), problem.user[train]))
        fold = np.empty(len(train), dtype=np.int64)
        fold[order] = (np.arange(len(train)) + rng.integers(FOLDS)) % FOLDS
    return [train[fold == number] for number in range(FOLDS) if (fold == number).any()]


def addable(scores: Floats, base_scores: Floats, prompt: Prompt) -> Floats:
    """Returns [rows, labels] what is added to a module's scores so that a module of zeros gives a method's.

    Args:
        scores: [rows, labels] the method's log-probabilities.
        base_scores: [rows, labels] what the base itself reads.
        prompt: says whether one label holds, or each by itself: then the base reads logits.
    """
    if not prompt.exclusive:
        scores = log_odds(scores, CERTAIN).astype(np.float32)
    return np.asarray(scores - base_scores, np.float32)


def without_own(offset: ReferenceFitted, user: str, examples: Examples) -> Floats:
    """Returns [examples, labels] log-probabilities, each of a fit of the user without the example's own fold."""
    if not offset.personal:
        return offset.read([user] * len(examples), examples.items)
    scores = np.empty(examples.target.shape, dtype=np.float32)
    for number in range(FOLDS):
        fold = np.arange(len(examples)) % FOLDS == number
        if fold.any():
            without = offset.with_user(user, examples.some(~fold))
            scores[fold] = without.read([user] * int(fold.sum()), examples.some(fold).items)
    return scores
