"""Training: one loop over a cohort of users, each as if alone.

Every step moves each active user one step along their own schedule: own batches, learning rate, clipping, early stop.
Rows of the parameter matrix never touch each other, so a user's result does not depend on the cohort. A finished user
is dropped and the matrix compacted.

Shape letters: g users of the cohort still training, w module width, b rows a user, c labels.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import Layout, derived_seed
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.packed import sent
from peftu.config import TrainSpec
from peftu.data.sources import cache_dir, writing_to
from peftu.dropout import dropped
from peftu.environment import memory_bytes
from peftu.errors import PeftuError
from peftu.memory import give_back, tried
from peftu.train_rows import Rows, Unit, row_loss

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # AdamW's own (Loshchilov & Hutter 2019)
COHORT_BYTES = 256 << 20  # most of a cohort on a processor; more made no base faster (benchmarks/cohorts.py)
ROWS_BYTES = 1 << 30  # finished modules that are held in memory; more of them lie in a file
COMPACT_BELOW = 0.75  # share of users still training at which the matrix is compacted


@dataclass(frozen=True)
class UnitLog:
    """How one unit's training went. ``best_epoch`` 0 is the start, before any step.

    ``diverged``: it came to numbers that are not finite, was stopped there, and the result is the start.
    """

    epochs: int
    steps: int
    best_epoch: int
    start_loss: float | None
    best_loss: float | None
    diverged: bool = False


@dataclass(frozen=True)
class Trained:
    """Module rows [units, w] (each unit's best by validation loss; the start where it diverged) and a log a unit."""

    rows: Tensor
    logs: list[UnitLog]


def train(
    base: FrozenBase,
    context: Context,
    layout: Layout,
    units: Sequence[Unit],
    spec: TrainSpec,
    seed: int,
    start: Tensor | None = None,
    progress: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Returns a trained module for every unit.

    A cohort that runs out of memory begins again with half its users, and so do those after it.

    Args:
        base: the frozen base.
        context: its prefill of the texts that the examples point at.
        layout: of the modules.
        units: who to train. A unit without train rows keeps its start; one without val rows keeps its last state.
        spec: learning rate, epochs and the rest.
        seed: the run's seed.
        start: [w] where all begin, and what ``spec.shrink`` pulls towards; None: fresh modules.
        progress: told the number of training rows done; less than none where a cohort begins again.
        say: told of memory that ran out.

    Raises:
        PeftuError: there is not enough memory for one unit.
    """
    rows = _matrix(len(units), layout.width)
    trained = layout.teacher if start is None else layout
    primer = base.primer(context) if start is None and trained.primed else None
    logs: list[UnitLog | None] = [None] * len(units)
    # Users of like length together: fewer part-filled batches. Which cohort a user is in changes nothing else.
    order = sorted(range(len(units)), key=lambda i: (len(units[i].train), units[i].key))
    size, first, done = cohort_size(base, context, trained, spec), 0, [0]

    def tell(count: int) -> None:
        done[0] += count
        progress(count)

    def trained_cohort(cohort: Sequence[Unit]) -> tuple[Tensor, list[UnitLog]]:
        keys = [unit.key for unit in cohort]
        begin = trained.fresh(keys, seed, primer) if start is None else start.expand(len(cohort), -1).clone()
        loop = _Cohort(base, context, trained, cohort, spec, seed, begin, start is not None)
        loop.run(tell)
        best = torch.where(torch.from_numpy(loop.diverged)[:, None], begin, loop.best.cpu())
        return layout.finish(best) if start is None else best, [loop.log(place) for place in range(len(cohort))]

    while first < len(order):
        chosen, done[0] = order[first : first + size], 0
        finished = tried(partial(trained_cohort, [units[i] for i in chosen]))
        if finished is None:
            size = _halved(len(chosen))
            say(f"training: out of memory with {len(chosen)} users at once — going on with {size}")
            progress(-done[0])
            continue
        rows[torch.tensor(chosen)] = finished[0]
        for i, log in zip(chosen, finished[1], strict=True):
            logs[i] = log
        first += len(chosen)
        del finished  # two cohorts are never held at once
    give_back()  # here, not after each cohort: the next one would fetch every page anew
    return Trained(rows, [log for log in logs if log is not None])


def _halved(users: int) -> int:
    """Returns half of them.

    Raises:
        PeftuError: there is no half of one.
    """
    if users == 1:
        raise PeftuError(
            "training: out of memory with one user at a time — lower train.batch, max_tokens or the region's depth"
        )
    return users // 2


def _matrix(units: int, width: int) -> Tensor:
    """Returns [units, w] float32, in memory, or in a file without a name where it would fill the memory."""
    if 4 * units * width <= ROWS_BYTES:
        return torch.empty(units, width)
    with writing_to(cache_dir()), tempfile.TemporaryFile(dir=cache_dir()) as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=(units, width)))


def cohort_bytes(device: torch.device) -> int:
    """Returns the memory that one cohort may take: module rows, optimiser state and activations.

    On a processor `COHORT_BYTES`, or an eighth of the machine's memory where that is less: not of what is free just
    now, so that runs on one machine form the same cohorts. On a GPU half of what is free beside base and contexts.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's, and free
        return int(torch.cuda.mem_get_info(device)[0] + kept) // 2
    return min(COHORT_BYTES, memory_bytes() // 8)


def cohort_size(base: FrozenBase, context: Context, layout: Layout, spec: TrainSpec) -> int:
    """Returns how many users are trained at once within `cohort_bytes`."""
    return int(max(1, min(512, cohort_bytes(base.device) // user_bytes(base, context, layout, spec))))


def user_bytes(base: FrozenBase, context: Context, layout: Layout, spec: TrainSpec) -> int:
    """Returns the memory that a user takes while they are trained, as reckoned from shapes."""
    rows_bytes = 4 * layout.width * 7  # weights, gradient, two moments, best, start, one temporary
    states = max(1, context.span_tokens + layout.added_tokens) * base.family.width * 24
    # Outside the span a row has the keys and values of its text, which the backward pass holds on to.
    numbers = context.region.depth * (states + base.earlier_numbers(context))
    return int(rows_bytes + spec.batch * numbers * base.dtype.itemsize)


def _schedule(size: int, spec: TrainSpec, seed: int) -> npt.NDArray[np.int64]:
    """Returns [steps, batch] row numbers, -1 where a batch is not full; a new order every epoch."""
    rng = np.random.Generator(np.random.PCG64(seed))
    grid = np.full((spec.epochs, -(-size // spec.batch) * spec.batch), -1, dtype=np.int64)
    for epoch in range(spec.epochs):
        grid[epoch, :size] = rng.permutation(size)
    return grid.reshape(-1, spec.batch)


class _Cohort:
    """The state of one cohort; `run` is the loop."""

    def __init__(
        self,
        base: FrozenBase,
        context: Context,
        layout: Layout,
        units: Sequence[Unit],
        spec: TrainSpec,
        seed: int,
        begin: Tensor,
        anchored: bool,
    ) -> None:
        self.base, self.context, self.layout, self.spec = base, context, layout, spec
        device = base.device
        self.switches = torch.tensor(layout.switches, dtype=torch.long, device=device)
        on = layout.on(begin)
        self.best = begin.to(device, copy=True)
        sizes = np.array([len(unit.train) for unit in units], dtype=np.int64)
        self.epoch_steps = np.maximum(1, -(-sizes // spec.batch))
        self.total = np.where(sizes > 0, self.epoch_steps * spec.epochs, 0)
        self.train_data = Rows([unit.train for unit in units], device)
        self.val_data = Rows([unit.val for unit in units], device)
        self.schedule = np.full((len(units), max(1, int(self.total.max())), spec.batch), -1, dtype=np.int64)
        for place, unit in enumerate(units):
            own = _schedule(len(unit.train), spec, derived_seed(seed, unit.key, "order"))
            self.schedule[place, : len(own)] = np.where(own < 0, -1, own + self.train_data.start[place])
        self.seeds = np.array([derived_seed(seed, unit.key, "dropout") for unit in units], dtype=np.int64)
        # What a user's training has come to; all users of the cohort, not only the active ones.
        self.steps = np.zeros(len(units), dtype=np.int64)
        self.best_epoch = np.zeros(len(units), dtype=np.int64)
        self.best_loss = np.full(len(units), np.inf)
        self.start_loss = np.full(len(units), np.nan)
        self.diverged = np.zeros(len(units), dtype=bool)
        # Rows of the users still training.
        self.active = np.flatnonzero(self.total)
        self.on = None if on is None else on[torch.from_numpy(self.active)]
        self._load(self.best[torch.from_numpy(self.active).to(device)])
        self.begin = self.weights.clone() if anchored and spec.shrink else None
        self.first = torch.zeros_like(self.weights)
        self.second = torch.zeros_like(self.weights)

    def _load(self, weights: Tensor) -> None:
        """Takes these rows as the parameters: one matrix, and a leaf view of its columns for each tensor."""
        self.weights = weights.contiguous()
        self.leaves = {
            site: {name: view.detach().requires_grad_() for name, view in views.items()}
            for site, views in self.layout.views(self.weights).items()
        }

    def _gradient(self) -> Tensor:
        """Returns [g, w] the gradient just computed, and clears it."""
        parts = []
        for column in self.layout.columns:
            leaf = self.leaves[column.site.name][column.name]
            if column.switch:
                parts.append(leaf.new_zeros(len(leaf), 1))
                continue
            assert leaf.grad is not None  # noqa: S101  (every site of a layout is read)
            parts.append(leaf.grad.flatten(1))
            leaf.grad = None
        return torch.cat(parts, 1)

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int], None]) -> None:
        """Trains every user of the cohort to their end."""
        self._validate(np.arange(len(self.active)), epoch=0)
        self._switch_on()
        running = ~self.diverged[self.active]
        while running.any():
            progress(self._step(running))
            ended = running & (self.steps[self.active] % self.epoch_steps[self.active] == 0)
            if ended.any():
                self._validate(np.flatnonzero(ended))
                running &= ~self._finished()
                if running.mean() < COMPACT_BELOW:
                    running = self._compact(running)

    @torch.no_grad()
    def _switch_on(self) -> None:
        """Sets every switch: from here on the modules are there, and weight decay shall not wear them off."""
        if self.on is not None:
            self.weights.index_fill_(1, self.switches, 1)
            self.on = torch.ones_like(self.on)

    def _step(self, running: npt.NDArray[np.bool_]) -> int:
        """Takes one optimiser step for every running user; returns the rows seen."""
        picked = self._picked(running)
        text, target, weight, offset = self.train_data.take(picked)
        seeds, steps = sent(torch.from_numpy(np.stack([self.seeds, self.steps])[:, self.active]), weight.device)
        tensors = dropped(self.layout, self.leaves, seeds, steps)
        binding = self.layout.bind(tensors, len(self.active), self.on)
        scores_nc = self.base.readout(self.context, text.view(-1), binding)
        loss_gb = row_loss(scores_nc, target.flatten(0, 1), self.context.prompt, offset).view_as(weight)
        # A mean over each user's rows, summed over users: no user's gradient knows of another.
        ((loss_gb * weight).sum(1) / weight.sum(1).clamp(min=1e-12)).sum().backward()  # type: ignore[no-untyped-call]
        self._update(self._gradient(), running)
        self.steps[self.active[running]] += 1
        return int((self.train_data.weighing(picked) > 0).sum())

    def _picked(self, running: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Returns [g, b] the numbers of each user's next rows, -1 where there is none."""
        step = np.minimum(self.steps, self.total - 1)[self.active]
        picked = np.where(running[:, None], self.schedule[self.active, step], -1)
        return picked[:, : max(1, int((picked >= 0).sum(1).max()))]

    @torch.no_grad()
    def _update(self, grad: Tensor, running: npt.NDArray[np.bool_]) -> None:
        """Applies AdamW to every running user's row, with the user's own clipping and learning rate.

        lr rises linearly over the first ``warmup`` share of the user's steps, then falls linearly to zero.
        """
        step, total = self.steps[self.active], self.total[self.active]
        lr = column(self.spec.lr * schedule_factor(step, total, self.spec.warmup) * running, self.weights)
        towards = self.weights if self.begin is None else self.weights - self.begin
        decay = self.spec.weight_decay if self.begin is None else self.spec.shrink
        moments = (self.first, self.second, column(step + 1.0, self.weights))
        adamw(self.weights, grad, moments, lr, self.spec.clip, towards, decay)
        self._switch_on()

    @torch.no_grad()
    def _validate(self, places: npt.NDArray[np.int64], epoch: int | None = None) -> None:
        """Scores these users on their validation rows and keeps the rows of those that got better."""
        members = self.active[places]
        seen = self.val_data.size[members] > 0  # else nothing to choose by: the last state is the result
        finite, loss = self._validation_loss(places, seen)
        self.diverged[members[~finite]] = True
        if epoch is None:
            self._keep(places[finite & ~seen])
        members, better = members[seen], finite[seen] & (loss < self.best_loss[members[seen]])
        self.diverged[members[~np.isfinite(loss)]] = True
        if epoch == 0:
            self.start_loss[members] = loss
        self.best_loss[members[better]] = loss[better]
        self._keep(places[seen][better])

    def _keep(self, places: npt.NDArray[np.int64]) -> None:
        """Notes the state of these users as their best."""
        members = self.active[places]
        self.best_epoch[members] = self.steps[members] // self.epoch_steps[members]
        of, where = sent(torch.from_numpy(np.stack([places, members])), self.weights.device)
        self.best.index_copy_(0, where, self.weights.index_select(0, of))

    def _validation_loss(
        self, places: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Returns whose weights are finite, and the weighted mean loss of those who are ``seen`` over their rows.

        A slab of rows is read at a time; the device is asked once, for everything.
        """
        rows = self.weights[sent(torch.from_numpy(places), self.weights.device)]
        answers, members = [rows.isfinite().all(1).float()], self.active[places[seen]]
        counts = np.zeros(len(members))
        if len(members):
            binding_rows = rows if seen.all() else rows[sent(torch.from_numpy(np.flatnonzero(seen)), rows.device)]
            on = None if self.on is None else self.on[torch.from_numpy(places[seen])]
            binding = self.layout.bind(self.layout.views(binding_rows), len(members), on)
        sizes, start = self.val_data.size[members], self.val_data.start[members, None]
        slab = 2 * self.spec.batch  # no gradients are kept: twice the rows of a training step fit
        for first in range(0, int(sizes.max(initial=0)), slab):
            step = np.arange(first, min(first + slab, int(sizes.max())))
            picked = np.where(step[None] < sizes[:, None], start + step, -1)
            text, target, weight, offset = self.val_data.take(picked)
            scores = self.base.readout(self.context, text.view(-1), binding)
            loss = row_loss(scores, target.flatten(0, 1), self.context.prompt, offset).view_as(weight)
            answers.append((loss * weight).sum(1))
            counts += self.val_data.weighing(picked).sum(1)
        finite, *sums = np.split(torch.cat(answers).cpu().numpy(), np.cumsum([len(x) for x in answers])[:-1])
        return finite > 0, np.sum(sums, axis=0, dtype=np.float64) / counts

    def _finished(self) -> npt.NDArray[np.bool_]:
        """Returns which active users are at their last step, have waited ``patience`` epochs or have diverged."""
        steps, epochs = self.steps[self.active], self.steps[self.active] // self.epoch_steps[self.active]
        seen = self.val_data.size[self.active] > 0
        patient = epochs - self.best_epoch[self.active] < self.spec.patience
        return np.asarray((steps >= self.total[self.active]) | (seen & ~patient) | self.diverged[self.active])

    def _compact(self, running: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Drops finished users' rows; returns the new running mask (all true)."""
        places = torch.from_numpy(np.flatnonzero(running))
        keep = sent(places, self.weights.device)
        self.active = self.active[running]
        self.first, self.second = self.first[keep], self.second[keep]
        self.begin = None if self.begin is None else self.begin[keep]
        self.on = None if self.on is None else self.on[places]
        self._load(self.weights[keep])
        return np.ones(len(self.active), dtype=bool)

    def log(self, place: int) -> UnitLog:
        """Returns how the training of the user at this place went."""

        def finite(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        steps, lost = int(self.steps[place]), bool(self.diverged[place])
        return UnitLog(
            epochs=steps // int(self.epoch_steps[place]),
            steps=steps,
            best_epoch=0 if lost else int(self.best_epoch[place]),
            start_loss=finite(self.start_loss[place]),
            best_loss=finite((self.start_loss if lost else self.best_loss)[place]),
            diverged=lost,
        )


def schedule_factor(
    step: npt.NDArray[np.int64], total: npt.NDArray[np.int64], warmup: float
) -> npt.NDArray[np.float64]:
    """Returns the share of the learning rate at a step: up over the first ``warmup`` share of all, then down to 0."""
    warm = np.maximum(1, np.ceil(total * warmup))
    return np.asarray(np.minimum((step + 1) / warm, (total - step) / np.maximum(1, total - warm + 1)))


def adamw(
    weights: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor, Tensor],
    lr: Tensor,
    clip: float,
    away: Tensor,
    decay: float,
) -> None:
    """Moves each row of weights [g, w] by one step of AdamW, each with its own clipping, learning rate and count.

    Args:
        weights: changed in place, and the first two ``moments`` with it; ``grad`` is used up.
        grad: [g, w].
        moments: first and second [g, w], and the number of steps with this one [g, 1].
        lr: [g, 1].
        clip: largest norm of a row's gradient.
        away: [g, w] how far the weights are from where they are pulled to.
        decay: strength of that pull, whatever the gradient.
    """
    first, second, count = moments
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    grad *= (clip / (norm + 1e-6)).clamp(max=1.0)
    first.lerp_(grad, 1 - BETA1)
    second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
    # Nothing as large as the weights is made anew: fresh memory costs a processor more than the arithmetic.
    root = (1 - BETA2**count).sqrt()
    weights.addcmul_(away, lr * decay, value=-1)
    move = torch.sqrt(second, out=grad).add_(EPSILON * root)
    torch.div(first, move, out=move)
    weights.addcmul_(move, lr * root / (1 - BETA1**count), value=-1)


def column(values: npt.NDArray[np.floating], like: Tensor) -> Tensor:
    """Returns the values as [g, 1] beside a matrix."""
    return sent(torch.as_tensor(np.asarray(values), dtype=like.dtype), like.device)[:, None]
