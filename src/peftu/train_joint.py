"""Training of joint methods: one loop over all users, for what they share and for each one's code.

A step takes G groups of `GROUP` rows; all rows of a group are one user's. What is shared moves with the mean gradient
over the groups; a user's code moves with the gradient of their own rows, in steps of their own count, and only when
they are in the step. The best state is the one with the least mean loss over all validation rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import derived_seed
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.packed import sent
from peftu.codes import CodeLayout, SharedLayout, tensors_at
from peftu.config import TrainSpec
from peftu.methods.joint import EncodingMethod
from peftu.predict import score
from peftu.train import UnitLog, adamw, column, schedule_factor
from peftu.train_rows import Examples, Rows, Unit, joined, row_loss

GROUP = 4  # rows of one user in a step
MOMENT_ROWS = 4096  # examples summed at once


@dataclass(frozen=True)
class JointTrained:
    """What all share [w], codes [units, c], and how the training went."""

    shared: Tensor
    codes: Tensor
    log: UnitLog


def train_jointly(
    base: FrozenBase,
    context: Context,
    layout: SharedLayout,
    units: Sequence[Unit],
    spec: TrainSpec,
    seed: int,
    embedded: Tensor | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> JointTrained:
    """Returns what all share and a code for every unit; a unit without train rows has a code of zeros.

    Where the training comes to numbers that are not finite it stops, its log says so, and the best state before holds.

    To add users later with the rest frozen, pass `train` a `CodeLayout`; where codes are computed, use `encoded`.

    Args:
        base: the frozen base.
        context: its prefill of the texts that the examples point at.
        layout: of what is shared.
        units: the users.
        spec: learning rate, epochs and the rest; ``batch`` counts the rows of all users in a step.
        seed: the run's seed.
        embedded: [texts, d] sentence vectors, for methods that compute their codes.
        progress: told the number of training rows done.
    """
    loop = _Loop(base, context, layout, units, spec, seed, embedded)
    loop.run(progress)
    return JointTrained(loop.best[0].cpu(), loop.best[1].cpu(), loop.log())


@torch.no_grad()
def encoded(layout: SharedLayout, shared: Tensor, examples: Sequence[Examples], embedded: Tensor) -> Tensor:
    """Returns codes [units, c] computed from each unit's examples, without training.

    Args:
        layout: of what is shared.
        shared: [w] that row.
        examples: of each unit.
        embedded: [texts, d] sentence vectors of the texts that the examples point at.
    """
    method = layout.joint
    assert isinstance(method, EncodingMethod)  # noqa: S101  (only these have examples to read)
    head = tensors_at(layout.views(shared[None]), "head")
    return method.encode(head, torch.stack([_moments(method, part, embedded) for part in examples]).to(shared))


def _moments(method: EncodingMethod, examples: Examples, embedded: Tensor) -> Tensor:
    """Returns [m] the sums over these examples."""
    total: Tensor | float = 0.0
    for first in range(0, max(1, len(examples)), MOMENT_ROWS):
        part = slice(first, first + MOMENT_ROWS)
        target = torch.from_numpy(examples.target[part]).to(embedded)
        total = total + method.moments(embedded[torch.from_numpy(examples.text[part])], target)
    assert isinstance(total, Tensor)  # noqa: S101  (the loop runs once at least)
    return total


class _Loop:
    """The state of one joint training; `run` is the loop."""

    def __init__(
        self,
        base: FrozenBase,
        context: Context,
        layout: SharedLayout,
        units: Sequence[Unit],
        spec: TrainSpec,
        seed: int,
        embedded: Tensor | None,
    ) -> None:
        self.base, self.context, self.layout, self.units, self.spec, self.seed = (
            base, context, layout, units, spec, seed,
        )  # fmt: skip
        self.method, device = layout.joint, base.device
        self.row = layout.fresh([""], seed).to(device)
        self.switches = torch.tensor(layout.switches, dtype=torch.long, device=device)
        self.codes = torch.zeros(len(units), layout.code_width, device=device)
        self.moved = torch.zeros(len(units), 1, device=device)  # steps that each code has taken
        self.row_state, self.code_state = ((torch.zeros_like(x), torch.zeros_like(x)) for x in (self.row, self.codes))
        self.leaves = {
            site: {name: view.detach().requires_grad_() for name, view in views.items()}
            for site, views in layout.views(self.row).items()
        }
        self.data = Rows([unit.train for unit in units], device)
        self.val = joined([unit.val for unit in units])
        self.owner = np.repeat(np.arange(len(units)), [len(unit.val) for unit in units])
        self.groups = max(1, spec.batch // GROUP)
        blocks = int((-(-self.data.size // GROUP)).sum())
        self.epoch_steps = -(-blocks // self.groups)
        self.embedded = None if embedded is None else embedded.to(device)
        if isinstance(self.method, EncodingMethod):
            assert self.embedded is not None  # noqa: S101  (the caller gives what the method needs)
            method, vectors = self.method, self.embedded
            self.sums = torch.stack([_moments(method, unit.train, vectors) for unit in units])
        self.step, self.diverged = 0, False
        self.start_loss: float | None = None
        self.best_loss, self.best_epoch = np.inf, 0
        self.best = (self.row[0].clone(), self._codes().clone())

    def run(self, progress: Callable[[int], None]) -> None:
        """Trains to the end, or until the validation loss has not fallen for ``patience`` epochs."""
        self._validate(0)
        self._switch_on()
        for epoch in range(1, self.spec.epochs + 1) if self.epoch_steps else ():
            for users, picked in self._steps(epoch):
                self._move(users, picked)
                progress(int((picked >= 0).sum()))
            self._validate(epoch)
            if self.diverged or (len(self.val) and epoch - self.best_epoch >= self.spec.patience):
                break

    def _steps(self, epoch: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yields the users [g] and row numbers [g, GROUP] (-1: none) of each step; a new order every epoch."""
        users, blocks = [], []
        for number, unit in enumerate(self.units):
            size = int(self.data.size[number])
            rng = np.random.Generator(np.random.PCG64(derived_seed(self.seed, unit.key, "order", str(epoch))))
            padded = np.full(-(-size // GROUP) * GROUP, -1, dtype=np.int64)
            padded[:size] = rng.permutation(size) + self.data.start[number]
            blocks.append(padded.reshape(-1, GROUP))
            users.append(np.full(len(blocks[-1]), number, dtype=np.int64))
        who, rows = np.concatenate(users), np.concatenate(blocks)
        rng = np.random.Generator(np.random.PCG64(derived_seed(self.seed, "groups", str(epoch))))
        order = rng.permutation(len(who))
        for first in range(0, len(order), self.groups):
            chosen = order[first : first + self.groups]
            yield who[chosen], rows[chosen]

    def _move(self, users: npt.NDArray[np.int64], picked: npt.NDArray[np.int64]) -> None:
        """Takes one step with these users' rows."""
        text, target, weight, offset = self.data.take(picked)
        present, place = (sent(torch.from_numpy(x), self.row.device) for x in np.unique(users, return_inverse=True))
        present_codes = self.codes[present].requires_grad_()
        if isinstance(self.method, EncodingMethod) and self.embedded is not None:
            # Of the user's other rows alone: else a code could tell the very labels that it is to predict.
            seen = self.method.moments(self.embedded[sent(text, self.row.device)], target * (weight > 0)[..., None])
            codes = self.method.encode(tensors_at(self.leaves, "head"), self.sums[present][place] - seen)
        else:
            codes = present_codes[place]
        on = torch.ones(len(codes), dtype=torch.bool)  # since the start was validated
        scores_nc = self.base.readout(self.context, text.view(-1), self.layout.compose(self.leaves, codes, on))
        loss = row_loss(scores_nc, target.flatten(0, 1), self.context.prompt, offset).view_as(weight)
        ((loss * weight).sum() / GROUP).backward()  # type: ignore[no-untyped-call]
        self._update(present, present_codes.grad, len(users))
        self.step += 1

    @torch.no_grad()
    def _update(self, present: Tensor, code_grad: Tensor | None, groups: int) -> None:
        """Applies AdamW to the shared row and to the codes of the users present."""
        total = np.array([self.epoch_steps * self.spec.epochs])
        lr = column(self.spec.lr * schedule_factor(np.array([self.step]), total, self.spec.warmup), self.row)
        grad = torch.cat([self._take_grad(c.site.name, c.name) for c in self.layout.columns], 1) / groups
        count = torch.full_like(lr, self.step + 1)
        adamw(self.row, grad, (*self.row_state, count), lr, self.spec.clip, self.row, self.spec.weight_decay)
        self._switch_on()
        if code_grad is None:
            return
        self.moved[present] += 1
        codes, first, second = (x[present] for x in (self.codes, *self.code_state))
        moments = (first, second, self.moved[present])
        adamw(codes, code_grad, moments, lr * self.method.code_lr, self.spec.clip, codes, self.method.code_decay)
        for kept, new in zip((self.codes, *self.code_state), (codes, first, second), strict=True):
            kept[present] = new

    @torch.no_grad()
    def _switch_on(self) -> None:
        """Sets every switch: from here on the modules are there."""
        if self.layout.switches:
            self.row.index_fill_(1, self.switches, 1)

    def _take_grad(self, site: str, name: str) -> Tensor:
        """Returns [1, numbers] the gradient of a shared tensor, zero where nothing read it, and clears it."""
        leaf = self.leaves[site][name]
        grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        leaf.grad = None
        return grad.reshape(1, -1)

    @torch.no_grad()
    def _codes(self) -> Tensor:
        """Returns everybody's code now."""
        if isinstance(self.method, EncodingMethod):
            return self.method.encode(tensors_at(self.layout.views(self.row), "head"), self.sums)
        return self.codes

    def _validate(self, epoch: int) -> None:
        """Scores the validation rows and keeps the state if it is the best so far; without such rows, the last."""
        codes = self._codes()
        loss = -np.inf if not len(self.val) else self._validation_loss(codes)
        whole = bool(self.row.isfinite().all()) and bool(codes.isfinite().all())
        self.diverged = not whole or bool(np.isnan(loss) or loss == np.inf)
        if self.diverged:
            return
        if epoch == 0 and len(self.val):
            self.start_loss = loss
        if loss < self.best_loss or not len(self.val):
            self.best_loss, self.best_epoch = loss, epoch
            self.best = (self.row[0].clone(), codes.clone())

    def _validation_loss(self, codes: Tensor) -> float:
        layout = CodeLayout(self.layout, self.row[0])
        scores = torch.from_numpy(score(self.base, self.context, self.val.text, layout, codes, self.owner))
        offset = None if self.val.offset is None else torch.from_numpy(self.val.offset)
        loss = row_loss(scores, torch.from_numpy(self.val.target), self.context.prompt, offset).numpy()
        return float((loss * self.val.weight).sum() / self.val.weight.sum())

    def log(self) -> UnitLog:
        """Returns how the training went."""
        done = self.step // max(1, self.epoch_steps)
        best = float(self.best_loss) if np.isfinite(self.best_loss) else None
        return UnitLog(done, self.step, self.best_epoch, self.start_loss, best, self.diverged)
