"""Fitting the mixed logistic model: one likelihood over all rows, one L-BFGS, no loop over users."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from peftu.methods.mixed_features import squared
from peftu.methods.mixed_model import (
    Data,
    MixedModel,
    Numbers,
    Parts,
    Priors,
    Reals,
    gain,
    loss,
    shared_score,
    without_deviation,
)

INTERCEPT_SD = 5.0


def fit_mixed(data: Data, priors: Priors, tolerance: float = 1e-9, start: MixedModel | None = None) -> MixedModel:
    """Returns the likeliest model given the rows and the priors.

    Args:
        data: the training rows.
        priors: strengths of the priors.
        tolerance: stop when a step makes the posterior likelier by less than this share.
        start: a model of the same data under other priors, to start from.
    """
    with threadpool_limits(1):  # many small products: threads only get in each other's way
        objective = _Objective(data, priors)
        first = np.zeros(objective.size) if start is None else objective.join(start.parts) / objective.step
        optimum = minimize(
            objective,
            first,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "maxcor": 10, "ftol": tolerance, "gtol": 1e-6},
        )
    parts = objective.split(optimum.x * objective.step)
    return MixedModel(data.features, parts, data.target.shape[1], data.link, int(optimum.nfev))


class _Objective:
    """The negative log-posterior and its gradient, over all parameters laid end to end.

    Attributes:
        size: number of parameters.
        step: [size] unit in which each parameter is searched: its posterior deviation if it were the only one.
            Parameters that many rows speak about are known much better than their priors say; without this, L-BFGS
            needs several times as many steps.
    """

    def __init__(self, data: Data, priors: Priors) -> None:
        self.data = data
        features, users, outputs = data.features, data.users, data.outputs
        sds = {"intercept": INTERCEPT_SD, **priors.model_dump()}
        shapes = {
            "intercept": (1, outputs),
            "embedding": (features.embedding.shape[1], outputs),
            "tfidf": (features.tfidf.shape[1], outputs),
            "text": (len(features.personal), outputs),
            "bias": (users, outputs),
            "slope": (users, outputs),
            "deviation": (users, features.personal.shape[1], outputs),
        }
        self.shapes = {name: shape if sds[name] else (0, *shape[1:]) for name, shape in shapes.items()}
        self.size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.by_user, self.by_text = summing(data.user, users), summing(data.text, len(features.personal))
        self.blocks = list(_packed(data)) if sds["deviation"] else []
        self.precision = self.join({name: np.full(shape, sds[name] ** -2.0) for name, shape in self._present()})
        self.step = (self._information() + self.precision) ** -0.5

    def __call__(self, point: Reals) -> tuple[float, Reals]:
        values = point * self.step
        parts, data = self.split(values), self.data
        shared = shared_score(data.features, parts)[data.text]
        logits = without_deviation(parts, shared, data.user)
        for block in self.blocks:
            logits[block.rows[block.real]] += (block.x @ parts["deviation"][block.users])[block.real]
        misfit, residual = loss(logits, data)
        by_text = self.by_text @ (gain(parts, data.user) * residual)
        gradient = {
            "intercept": residual.sum(0, keepdims=True),
            "embedding": data.features.embedding.T @ by_text,
            "tfidf": data.features.tfidf.T @ by_text,
            "text": by_text,
            "bias": self.by_user @ residual,
            "slope": self.by_user @ (residual * shared),
            "deviation": self._own(residual),
        }
        shrinkage = self.precision * values
        return misfit + 0.5 * float(values @ shrinkage), (self.join(gradient) + shrinkage) * self.step

    def split(self, values: Reals) -> Parts:
        """Returns the parameters by part; a part left out has length 0."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])[:-1]
        pieces = np.split(values, ends)
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def join(self, parts: Parts) -> Reals:
        """Returns the parts laid end to end, without those left out; zeros where ``parts`` has left out one of ours."""
        arrays = {name: parts[name] if len(parts[name]) else np.zeros(shape) for name, shape in self._present()}
        return np.concatenate([values.ravel() for values in arrays.values()])

    def _present(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, shape) for name, shape in self.shapes.items() if shape[0]]

    def _own(self, residual: Reals) -> Reals:
        """Returns [users, directions, outputs] the gradient by the users' own weights."""
        result = np.zeros(self.shapes["deviation"])
        for block in self.blocks:
            result[block.users] = block.x.swapaxes(1, 2) @ residual[block.rows]  # x is 0 where a row is not real
        return result

    def _information(self) -> Reals:
        """Returns [size] how much the rows tell of each parameter at most (a logit's variance is at most ¼)."""
        rows_u, rows_t = (matrix.sum(1)[:, None] for matrix in (self.by_user, self.by_text))
        squares = np.zeros((*self.shapes["deviation"][:2], 1))
        for block in self.blocks:
            squares[block.users, :, 0] = np.square(block.x).sum(1)
        information = {
            "intercept": rows_u.sum(keepdims=True),
            "embedding": squared(self.data.features.embedding).T @ rows_t,
            "tfidf": squared(self.data.features.tfidf).T @ rows_t,
            "text": rows_t,
            "bias": rows_u,
            "slope": rows_u,
            "deviation": squares,
        }
        return self.join({name: np.broadcast_to(information[name] / 4, shape) for name, shape in self._present()})


@dataclass(frozen=True)
class _Block:
    """Users with about as many rows each, side by side.

    Attributes:
        users: [users] their numbers.
        rows: [users, most] their row numbers, filled up with row 0.
        real: [users, most] False where filled up.
        x: [users, most, directions] features of the rows, 0 where filled up.
    """

    users: Numbers
    rows: Numbers
    real: npt.NDArray[np.bool_]
    x: Reals


def _packed(data: Data) -> Iterator[_Block]:
    """Yields every user with rows once; users whose number of rows lies in the same power of two share a block."""
    order = np.argsort(data.user, kind="stable")
    users, first, size = np.unique(data.user[order], return_index=True, return_counts=True)
    octave = np.ceil(np.log2(size))
    for which in np.unique(octave):
        members = np.flatnonzero(octave == which)
        place = np.arange(size[members].max())
        real = place < size[members, None]
        rows = np.where(real, order[np.where(real, first[members, None] + place, 0)], 0)
        yield _Block(users[members], rows, real, data.features.personal[data.text[rows]] * real[..., None])


def summing(group: Numbers, groups: int) -> sparse.csr_array:
    """Returns [groups, rows] a matrix that adds up the rows of each group."""
    rows = len(group)
    return sparse.csr_array((np.ones(rows), (group, np.arange(rows))), shape=(groups, rows))
