"""Bottleneck adapters and VeRA against plain modules and peft; parameter counts against the published ones."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle
from torch import Tensor, nn

from peftu.bank import Layout
from peftu.config import RegionSpec
from peftu.methods.bottleneck import Houlsby, Pfeiffer
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import Lora
from peftu.methods.method import ModuleMethod
from peftu.methods.vera import Vera, shared_map
from peftu.testing import FAMILIES, flan_t5_base, tiny_base, tiny_model, tiny_prompt, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CLOSE = 1e-4
PROMPT, TEXTS = tiny_prompt(("no", "nor", "yes")), tiny_texts(4)


class Pair:
    """One user's module on a tiny base, and the hub model that is to score the same."""

    def __init__(self, family: str, method: ModuleMethod) -> None:
        self.base = tiny_base(family)
        self.region = self.base.region(RegionSpec())
        self.layout = Layout(method, self.base.sites(self.region, len(PROMPT.words)))
        noise = torch.randn(1, self.layout.width, generator=torch.Generator().manual_seed(3))
        self.row = self.layout.fresh(["somebody"], 0) + 0.2 * noise
        views = self.layout.views(self.row)
        self.own = {site: {name: view[0] for name, view in tensors.items()} for site, tensors in views.items()}
        self.model, self.tokenizer = hub(family)

    def sites(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield from ((name, tensors) for name, tensors in self.own.items() if name != "head")

    @torch.no_grad()
    def agree(self, model: Any) -> bool:
        context = self.base.prefill(PROMPT, TEXTS, self.region)
        binding = self.layout.bind(self.layout.views(self.row), 1)
        ours = self.base.readout(context, torch.arange(len(TEXTS)), binding)
        head = self.own.get("head")
        labels = hub("bert")[0] if head else None
        judge = Oracle(model, self.tokenizer, labels, (head["weight"], head["bias"]) if head else None)
        theirs = torch.stack([judge.scores(PROMPT, text) for text in TEXTS])
        plain = self.base.readout(context, torch.arange(len(TEXTS)))
        assert float((theirs - plain).abs().max()) > 100 * CLOSE
        return float((ours - theirs).abs().max()) < CLOSE


def hub(family: str) -> tuple[Any, Any]:
    model, tokenizer = tiny_model(family)
    model.set_attn_implementation("eager")
    return model, tokenizer


# --- bottleneck adapters against plain modules -----------------------------------------------------------------------

# Where transformers computes what goes into an MLP, what comes out of it, and what comes out of self-attention.
PLACES = {
    "llama": (r"model\.layers\.\d\.mlp", r"model\.layers\.\d\.mlp", r"model\.layers\.\d\.self_attn\.o_proj"),
    "gpt2": (r"transformer\.h\.\d\.mlp", r"transformer\.h\.\d\.mlp", r"transformer\.h\.\d\.attn\.c_proj"),
    "bert": (
        r"encoder\.layer\.\d\.intermediate",
        r"encoder\.layer\.\d\.output\.dense",
        r"encoder\.layer\.\d\.attention\.output\.dense",
    ),
    "t5": (r".*\.DenseReluDense", r".*\.DenseReluDense", r".*\.SelfAttention\.o"),
}


class Bottleneck(nn.Module):
    """up(f(down(x))) as PyTorch has it."""

    def __init__(self, own: dict[str, Tensor], activation: nn.Module) -> None:
        super().__init__()
        narrow, width = own["down"].shape
        self.down, self.up, self.activation = nn.Linear(width, narrow), nn.Linear(narrow, width), activation
        for name, value in own.items():
            layer, _, bias = name.partition("_")
            getattr(getattr(self, layer), bias or "weight").data.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.up(self.activation(self.down(x)))
        return found


def after(adapter: nn.Module) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda _module, _inputs, y: y + adapter(y)


def beside(adapter: nn.Module, seen: list[Tensor]) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda _module, _inputs, y: y + adapter(seen.pop())


@pytest.mark.parametrize(
    ("method", "activation"),
    [
        (Houlsby(reduction=8), nn.SiLU()),
        (Pfeiffer(reduction=4), nn.ReLU()),
        (Pfeiffer(reduction=2, parallel=True, activation="gelu"), nn.GELU()),
    ],
    ids=["houlsby", "pfeiffer", "parallel"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_plain_modules_beside_the_frozen_ones(family: str, method: Houlsby, activation: nn.Module) -> None:
    pair = Pair(family, method)
    entry, mlp, attention = (
        [name for name, _ in pair.model.named_modules() if re.fullmatch(pattern, name)] for pattern in PLACES[family]
    )
    adapters = [(name, Bottleneck(own, activation)) for name, own in pair.sites()]
    at_mlp = [adapter for name, adapter in adapters if name.endswith(".mlp")]
    at_attention = [adapter for name, adapter in adapters if not name.endswith(".mlp")]
    parallel = isinstance(method, Pfeiffer) and method.parallel
    assert len(at_mlp) == len(mlp) == len(entry)
    assert len(at_attention) == (0 if isinstance(method, Pfeiffer) else len(attention))
    for first, last, adapter in zip(entry, mlp, at_mlp, strict=True):
        seen: list[Tensor] = []
        if parallel:
            pair.model.get_submodule(first).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        hook = beside(adapter, seen) if parallel else after(adapter)
        pair.model.get_submodule(last).register_forward_hook(hook)
    for name, adapter in zip(attention, at_attention, strict=False):
        pair.model.get_submodule(name).register_forward_hook(after(adapter))
    assert pair.agree(pair.model)


# --- VeRA against peft -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [("q", "v"), ("k", "down")], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_vera_is_peft_s(family: str, targets: Any) -> None:
    method = Vera(rank=6, seed=2, targets=targets)
    pair = Pair(family, method)
    names = [name for name, _ in pair.sites()]
    config = peft.VeraConfig(r=6, target_modules=names, fan_in_fan_out=family == "gpt2", save_projection=True)
    wrapped = peft.get_peft_model(pair.model, config).eval()
    tuner = wrapped.base_model
    widest = tuner.vera_A["default"].shape[1], tuner.vera_B["default"].shape[0]
    device, dtype = torch.device("cpu"), torch.float32
    tuner.vera_A["default"].copy_(shared_map(2, 0, widest[0], 6, widest[0], device, dtype).T)
    tuner.vera_B["default"].copy_(shared_map(2, 1, widest[1], 6, 6, device, dtype))
    for name, own in pair.sites():
        module = tuner.model.get_submodule(name)
        spread = (widest[0] / module.in_features) ** 0.5  # ours goes by the map's own width
        module.vera_lambda_d["default"].data.copy_((method.start + own["d"]) * spread)
        module.vera_lambda_b["default"].data.copy_(own["b"])
    assert pair.agree(tuner.model)


# --- parameters on Flan-T5-base's configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Houlsby(), 3_578_112),
        (Lora(rank=8, targets=("q", "v")), 884_736),
        (Pfeiffer(), 3_578_112 // 2),
        (Ia3(), 36 * 2 * 768 + 24 * 2048),
    ],
    ids=lambda value: value.card.name if hasattr(value, "card") else "",
)
def test_parameters_on_flan_t5_base(method: ModuleMethod, expected: int) -> None:
    base = flan_t5_base()
    assert Layout(method, base.sites(base.region(RegionSpec()), 2)).parameters == expected
