"""A training step and a read ask nothing of the device: on a device without numbers (torch's meta) both run through.

What asks there raises by itself; what only waits for a copy is caught by the two modes below.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftu import train as training
from peftu.bank import Layout
from peftu.base.answers import Answer
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.packed import Packed
from peftu.config import RegionSpec, TrainSpec
from peftu.methods.bitfit import BitFit
from peftu.methods.lora import Lora
from peftu.methods.personal_head import PersonalHead
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import FAMILIES, tiny_base, tiny_prompt, tiny_texts, tiny_units

torch.set_num_threads(1)

TEXTS, META = 4, torch.device("meta")
WORDS = ("no", "yes")
ASKING = {"cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__"}
PROMPTS, PREFIXES = PromptTuning(tokens=2), PrefixTuning(tokens=2)
CASES = [
    (RegionSpec(), [Lora(rank=2), PROMPTS]),
    (RegionSpec(depth=1), [PROMPTS, PREFIXES, BitFit(), PersonalHead()]),
    (None, [Lora(rank=2), PREFIXES]),
]


class _NoNewTensors(TorchFunctionMode):
    """Refuses tensors that are made of Python's numbers on the device: PyTorch waits for their copy."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        on_device = any(isinstance(x, Tensor) and x.is_meta for x in args)
        made = function in (torch.tensor, torch.as_tensor) and str(kwargs.get("device") or "cpu") != "cpu"
        if (made and args != ([],)) or (on_device and name in ASKING):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **kwargs)


class _NoWaiting(TorchDispatchMode):
    """Refuses copies that are waited for, and shapes that depend on the device's numbers."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_device = any(x.is_meta for x in tensors)
        if "_to_copy" in name:
            moves = tensors[0].device.type != str(kwargs.get("device") or tensors[0].device).partition(":")[0]
            assert not moves or kwargs.get("non_blocking"), "a copy to or from the device is waited for"
        elif on_device:
            mixed = [x for x in tensors if not x.is_meta and x.ndim]
            assert not mixed, f"{name}: mixes what is on the device with what is not, which is copied and waited for"
            assert "repeat_interleave" not in name or kwargs.get("output_size"), f"{name}: its size is asked for"
        return function(*args, **kwargs)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Refuses whatever would wait for the device inside the block."""
    with _NoNewTensors(), _NoWaiting():
        yield


def on_meta(value: Any, host: tuple[str, ...] = ("text",)) -> Any:
    """Returns what a context holds on a device without numbers, but for what stays on the processor."""
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, Packed):
        return replace(value, values=value.values.to(META))
    if isinstance(value, dict):
        return {key: item if key in host else on_meta(item) for key, item in value.items()}
    return type(value)(map(on_meta, value)) if isinstance(value, list | tuple) else value


def moved(base: FrozenBase, context: Context) -> Context:
    """Returns the context on a device without numbers, where the base is moved."""
    base.family.model.to(META)
    return replace(context, state=on_meta(context.state))


def read_through(base: FrozenBase, context: Context, layout: Layout, rows: Tensor) -> None:
    """Reads every row with two modules, of which one is off."""
    on = None if layout.on(rows) is None else torch.tensor([True, False])
    binding = layout.bind(layout.views(rows.to(META)), 2, on)
    with no_waiting(), torch.no_grad():
        assert base.readout(context, torch.arange(context.count), binding).is_meta


@pytest.mark.parametrize(("region", "methods"), CASES, ids=["all", "top", "default"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_and_a_read_ask_nothing(family: str, region: RegionSpec | None, methods: list[Any]) -> None:
    base = tiny_base(family, layers=2)
    resolved = base.region(region)
    context = base.prefill(tiny_prompt(WORDS), tiny_texts(TEXTS), resolved)
    sites = base.sites(resolved, len(WORDS))
    context = moved(base, context)
    for method in methods:
        if base.family.kind in method.card.families:
            layout = Layout(method, sites)
            begin = layout.fresh(["a", "b"], 0)
            read_through(base, context, layout, begin)
            units = tiny_units([3, 2], TEXTS, len(WORDS), val=0)
            spec = TrainSpec(epochs=2, batch=2, lr=1e-2)
            cohort = training._Cohort(base, context, layout, units, spec, 0, begin, anchored=False)
            cohort._switch_on()
            with no_waiting():
                assert cohort._step(np.array([True, False])) == 2
            assert cohort.weights.is_meta


def test_a_validation_fetches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("gpt2", layers=2)
    resolved, fetched = base.region(None), []
    context = base.prefill(tiny_prompt(WORDS), tiny_texts(8), resolved)
    layout, context = Layout(PREFIXES, base.sites(resolved, len(WORDS))), moved(base, context)
    units = tiny_units([3, 2], 8, len(WORDS))
    begin, spec = layout.fresh(["a", "b"], 0), TrainSpec(epochs=2, batch=1, lr=1e-2)
    cohort = training._Cohort(base, context, layout, units, spec, 0, begin, anchored=False)

    def fetch(x: Tensor) -> Tensor:
        fetched.append(x.shape)
        return torch.ones(x.shape)

    monkeypatch.setattr(Tensor, "cpu", fetch)
    with no_waiting():
        cohort._validate(np.arange(2), epoch=0)
    assert len(fetched) == 1
    assert cohort.start_loss.tolist() == [2 / 3, 2 / 3]  # two slabs of three rows, each answered by one


@pytest.mark.parametrize("span", ["all", "answer"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_given_answers_are_read_without_asking(family: str, span: Any) -> None:
    base = tiny_base(family, layers=2)
    resolved = base.region(RegionSpec(depth=1, span=span))
    answers = [Answer(text, "yes" * (text + 1)) for text in range(TEXTS)]
    context = moved(base, base.prefill_answers(tiny_prompt(()), tiny_texts(TEXTS), answers, resolved))
    for method in (PROMPTS, PREFIXES):
        layout = Layout(method, base.sites(resolved, 0))
        read_through(base, context, layout, layout.fresh(["a", "b"], 0))
