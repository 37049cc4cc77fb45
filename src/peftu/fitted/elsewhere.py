"""A method opened elsewhere than it was fitted: on another device, or in other numbers. What that changes is measured.

With a fitted method is kept how it reads its task's own words, a few texts that are nobody's. Where it is opened, the
same is read again. Modules are known by their checksums; one that is deleted takes what was kept of it with it.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from peftu.base.hardware import described
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.data.problem import Text
from peftu.fitted.fitted import Fitted
from peftu.fitted.guarded import GuardedFitted
from peftu.lab.lab import Item

_log = logging.getLogger(__name__)

TEXTS = 4  # that are read

Readings = dict[str, list[list[float]]]


def items_of(prompt: Prompt) -> list[Item]:
    """Returns the texts that are read: the task's instruction and its label words."""
    words = [word for word in (prompt.instruction, *prompt.words) if word.strip()]
    return [(Text(word), word if prompt.free else None) for word in words[:TEXTS]]


def readings_of(fitted: Fitted) -> Readings:
    """Returns how a fitted method reads those texts, as JSON values."""
    return {mark: values.tolist() for mark, values in fitted.readings(items_of(fitted.prompt)).items()}


def fitted_here(fitted: Fitted, base: FrozenBase) -> dict[str, Any]:
    """Returns what a method's base computes on and in which numbers, and how the method reads there."""
    return {**_numbers(base), "readings": readings_of(fitted)}


def there(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns, of what is kept of a base, what `fitted_here` gave; earlier releases kept the dtype alone."""
    known = ("device", "dtype", "quantize", "readings")
    return {key: about[key] for key in known if about.get(key) is not None}


def remarks(fitted: Fitted) -> list[str]:
    """Returns what is said of a method whose base was opened elsewhere than it was fitted, in a line; logs it, too."""
    if isinstance(fitted, GuardedFitted):
        return list(dict.fromkeys([*fitted.inner.remarks, *fitted.fallback.remarks]))
    remark = _remark(fitted)
    if remark is None:
        return []
    _log.warning(remark)
    return [remark]


def _remark(fitted: Fitted) -> str | None:
    here, was = _numbers(fitted.lab.base(str(fitted.job.base))), fitted.fitted_in or {}
    there = {key: was.get(key, value) for key, value in here.items()}
    if here == there:
        return None
    kept: Readings = was.get("readings", {})
    words = (
        "{device} in {dtype}".format(**where) + (f" and {where['quantize']}" if where["quantize"] != "none" else "")
        for where in (there, here)
    )
    moved = "{}: fitted on {}, opened on {}".format(fitted.label, *words)
    now = readings_of(fitted) if kept else {}
    both = now.keys() & kept.keys()
    if not both:
        return f"{moved}: scores differ, it was not kept by how much"
    apart = max(float(np.abs(np.array(now[mark]) - np.array(kept[mark])).max()) for mark in both)
    return f"{moved}: scores differ by {apart:.2g} at most, measured on the task's own words"


def _numbers(base: FrozenBase) -> dict[str, str]:
    return {"device": described(base.device), "dtype": base.hardware.dtype, "quantize": base.hardware.quantize}
