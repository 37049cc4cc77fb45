"""Codes as random effects: their population from all users, and each user's likeliest code under it.

Label scores are taken as linear in the code, around the code reached so far (Gauss-Newton); what is linear is solved as
`peftu.methods.effects` does for any model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.codes import CodeLayout, tensors_at
from peftu.methods.effects import Effects, Labelled, Reals, population, posterior
from peftu.methods.joint import PopulationMethod
from peftu.train_rows import Examples, Unit, with_offset

TURNS = 2  # around how many codes scores are linearised
ROUNDS = 10  # of codes and population in turn, on the same linear scores
ROWS = 64  # read at once: each has a module of its own
FIRST = 1.0  # variance of codes before any is known


def linearised(base: FrozenBase, context: Context, layout: CodeLayout, code: Reals, rows: Examples) -> Labelled:
    """Returns a user's rows with scores that are linear in the code, exact at ``code`` [c]."""
    scores, slopes = [], []
    for first in range(0, len(rows), ROWS):
        text = torch.from_numpy(rows.text[first : first + ROWS])
        codes = torch.from_numpy(code).float().to(base.device).expand(len(text), -1).clone().requires_grad_()
        read = base.readout(context, text, layout.bind(layout.views(codes), len(text)))
        if rows.offset is not None:
            read = with_offset(read, torch.from_numpy(rows.offset[first : first + ROWS]).to(read), context.prompt)
        labels = read.shape[1]
        slope = [
            torch.autograd.grad(read[:, label].sum(), codes, retain_graph=label + 1 < labels)[0]
            for label in range(labels)
        ]
        scores.append(read.detach().cpu().numpy())
        slopes.append(torch.stack(slope, 1).cpu().numpy())
    design = np.concatenate(slopes).astype(np.float64)
    offset = np.concatenate(scores).astype(np.float64) - design @ code
    return Labelled(
        offset, design, rows.target.astype(np.float64), "softmax" if context.prompt.exclusive else "sigmoid"
    )


def likeliest_code(base: FrozenBase, context: Context, layout: CodeLayout, rows: Examples) -> Tensor:
    """Returns [c] a user's code, given labelled rows and the population that is kept with what is shared."""
    prior = population_of(layout)
    known = prior
    for _ in range(TURNS + 1):
        if not len(rows):
            break
        known = posterior(prior, linearised(base, context, layout, known.mean, rows))
    return torch.from_numpy(known.mean).float()


def with_population(
    base: FrozenBase, context: Context, layout: CodeLayout, units: Sequence[Unit], codes: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the shared row [w] with the population of users' codes in it, and the codes [units, c] under it.

    Args:
        base: the frozen base.
        context: its prefill of the texts that the examples point at.
        layout: of the codes, as they were trained.
        units: the users; who has no rows has the population's mean.
        codes: [units, c] as trained.
    """
    method = layout.shared_layout.joint
    assert isinstance(method, PopulationMethod)  # noqa: S101  (the caller asks)
    blocks = method.blocks(layout.shared_layout.all_sites)
    size, around = sum(blocks), codes.cpu().numpy().astype(np.float64)
    prior = Effects(np.zeros(size), FIRST * np.eye(size))
    known: dict[int, Effects] = {}
    for _ in range(TURNS):
        rows = {
            place: linearised(base, context, layout, around[place], unit.train)
            for place, unit in enumerate(units)
            if len(unit.train)
        }
        for _ in range(ROUNDS if rows else 0):
            known = {place: posterior(prior, own) for place, own in rows.items()}
            prior = population(list(known.values()), blocks, full=size)
        for place, user in known.items():
            around[place] = user.mean
    shared = layout.shared.clone()
    head = layout.shared_layout.views(shared[None])["head"]
    head["mean"].copy_(torch.from_numpy(prior.mean))
    strength, axes = np.linalg.eigh(prior.covariance)
    head["root"].copy_(torch.from_numpy(axes * np.sqrt(strength.clip(min=0))))
    final = CodeLayout(layout.shared_layout, shared)
    return shared, torch.stack([likeliest_code(base, context, final, unit.train) for unit in units])


def population_of(layout: CodeLayout) -> Effects:
    """Returns the population that is kept with what is shared."""
    head = tensors_at(layout.shared_layout.views(layout.shared[None]), "head")
    root = head["root"].detach().cpu().double().numpy()
    return Effects(head["mean"].detach().cpu().double().numpy(), root @ root.T)
