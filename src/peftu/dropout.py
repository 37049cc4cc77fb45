"""Dropout whose draws depend on the user, the step and the place alone, never on who else is in the cohort.

What is dropped in a step is a whole input feature of a tensor (Srivastava et al. 2014, tied over the step's tokens):
one mask a user, step and tensor. Masks per token would depend on how far rows are padded for their neighbours.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.splitmix import GOLDEN, finalised


def dropped(
    layout: Layout, tensors: Mapping[str, Mapping[str, Tensor]], seeds: Tensor, steps: Tensor
) -> Mapping[str, Mapping[str, Tensor]]:
    """Returns a training step's tensors: features left out are zero, the others larger, so that the mean stays.

    Args:
        layout: says which tensors lose features, and how large a share of them.
        tensors: site -> name -> [G, *shape].
        seeds: [G] int64, each user's own.
        steps: [G] int64, how many steps each user has taken.
    """
    if not any(column.dropout for column in layout.columns):
        return tensors
    masked = {site: dict(site_tensors) for site, site_tensors in tensors.items()}
    for column in layout.columns:
        if column.dropout:
            tensor = masked[column.site.name][column.name]
            place = torch.arange(column.start, column.start + tensor.shape[-1], device=tensor.device)
            mask_gd = draws(seeds, steps, place) >= column.dropout
            mask = mask_gd.view(len(tensor), *[1] * (tensor.ndim - 2), -1)
            masked[column.site.name][column.name] = tensor * mask / (1 - column.dropout)
    return masked


def draws(seeds: Tensor, steps: Tensor, places: Tensor) -> Tensor:
    """Returns [G, places] float32, uniform in [0, 1): a hash of each user's seed and step and of the place."""
    return (_mixed(_mixed(seeds + steps)[:, None] + places) >> 40 & 0xFFFFFF).float() / (1 << 24)


def _mixed(z: Tensor) -> Tensor:
    """Returns SplitMix64 of int64; a shift brings copies of the sign in, which are masked."""
    z = z * _signed(GOLDEN) + _signed(GOLDEN)
    return cast(Tensor, finalised(z, _signed, lambda numbers, by: numbers >> by & (1 << 64 - by) - 1))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
