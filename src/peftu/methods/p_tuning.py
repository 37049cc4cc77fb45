"""P-tuning: virtual tokens made by a small encoder, which is trained and thrown away (Liu et al. 2021, 2103.10385)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module
from peftu.methods.prompt_tuning import UNIFORM, PromptTuning

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site

Encoder = Literal["mlp", "lstm"]
LSTM_LAYERS = 2  # as in peft and in PEFT-U's reference


class PTuning(PromptTuning):
    """What is kept is a module of prompt tuning; what is trained is the `PromptEncoder` that makes it."""

    card: ClassVar[MethodCard] = MethodCard(
        name="p-tuning",
        summary="Virtual tokens in the input, made by an encoder that each user trains.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2103.10385",
        loads=("peft",),  # as a module of prompt tuning
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-3, "epochs": 8}
    warm_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-2, "epochs": 6}  # a warm start is tuned as a prompt

    init: Literal["random"] = "random"  # the encoder's weights
    encoder: Encoder = Field("lstm", description="What makes the virtual tokens: mlp or lstm.")
    hidden: int = Field(128, ge=1, description="Width of the encoder.")

    @property
    def teacher(self) -> "PromptEncoder":
        """Returns the method that trains the encoder."""
        return PromptEncoder(head=self.head, tokens=self.tokens, encoder=self.encoder, hidden=self.hidden)

    def finish(self, site: "Site", p: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Returns the prompt that the encoder makes; the head as it is."""
        if site.kind != "tokens":
            return dict(p)
        return {"states": self.teacher.virtual(site, p), "switch": p["switch"]}


class PromptEncoder(Module):
    """A learned input [G, tokens, d] through a two-layer LSTM and an MLP, or an MLP alone; named as in peft."""

    card: ClassVar[MethodCard] = PTuning.card

    tokens: int
    encoder: Encoder
    hidden: int

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the encoder's weights, which start as PyTorch's own layers do, and the switch."""
        if site.kind != "tokens":
            return {}
        width, hidden = site.d_out, self.hidden
        specs = {"switch": TensorSpec((), switch=True), "embedding.weight": TensorSpec((self.tokens, width), UNIFORM)}
        sizes = [width, hidden, hidden, width]
        if self.encoder == "lstm":
            for layer in range(LSTM_LAYERS):
                for side in ("", "_reverse"):
                    for name, wide in (("ih", 2 * hidden if layer else width), ("hh", hidden)):
                        where = f"l{layer}{side}"
                        specs[f"lstm_head.weight_{name}_{where}"] = TensorSpec((4 * hidden, wide), hidden**-0.5)
                        specs[f"lstm_head.bias_{name}_{where}"] = TensorSpec((4 * hidden,), hidden**-0.5)
            sizes = [2 * hidden, 2 * hidden, width]
        for number, (before, after) in enumerate(pairwise(sizes)):
            specs[f"mlp_head.{2 * number}.weight"] = TensorSpec((after, before), before**-0.5)
            specs[f"mlp_head.{2 * number}.bias"] = TensorSpec((after,), before**-0.5)
        return specs

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the virtual tokens' states [G, tokens, d] that the encoder makes."""
        x_gnd = p["embedding.weight"]
        if self.encoder == "lstm":
            x_gnd = _lstm(x_gnd, p)
        layers = sorted({int(name.split(".")[1]) for name in p if name.startswith("mlp_head.")})
        for number in layers:
            x_gnd = x_gnd.relu() if number else x_gnd
            x_gnd = _linear(x_gnd, p[f"mlp_head.{number}.weight"], p[f"mlp_head.{number}.bias"])
        return x_gnd


def _linear(x_gni: "Tensor", weight_goi: "Tensor", bias_go: "Tensor") -> "Tensor":
    """Returns [G, n, o] every user's own linear map of x."""
    return bias_go[:, None].baddbmm(x_gni, weight_goi.mT)


def _lstm(x_gnd: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
    """Returns [G, n, 2 × hidden] every user's own bidirectional LSTM; gates stand as in PyTorch: i, f, g, o."""
    import torch

    for layer in range(LSTM_LAYERS):
        sides = []
        for side in ("", "_reverse"):
            weights = {
                name: p[f"lstm_head.{name}_l{layer}{side}"] for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
            }
            gates_gnf = _linear(x_gnd, weights["weight_ih"], weights["bias_ih"] + weights["bias_hh"])
            h_g1h = c_g1h = x_gnd.new_zeros(len(x_gnd), 1, gates_gnf.shape[-1] // 4)
            out = []
            steps = range(x_gnd.shape[1])
            for step in reversed(steps) if side else steps:
                i, f, g, o = torch.baddbmm(gates_gnf[:, [step]], h_g1h, weights["weight_hh"].mT).chunk(4, -1)
                c_g1h = f.sigmoid() * c_g1h + i.sigmoid() * g.tanh()
                h_g1h = o.sigmoid() * c_g1h.tanh()
                out.append(h_g1h)
            sides.append(torch.cat(out[::-1] if side else out, 1))
        x_gnd = torch.cat(sides, -1)
    return x_gnd
