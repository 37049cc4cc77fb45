"""Places in a model where a module may act, and how it is attached for one forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from peftu.base.packed import Ragged


@dataclass(frozen=True)
class Site:
    """One place where a module may act.

    Attributes:
        name: dotted path of the submodule in the hub model, or 'head'.
        kind: 'linear' (a frozen linear map x -> y) or 'head' (pooled features -> label scores).
        role: what the map is in its family: q, k, v, o, qkv, up, gate, down, head.
        layer: layer number; the head counts as the layer above the last.
        stack: 'decoder' or 'encoder'.
        d_in: width of x.
        d_out: width of y.
    """

    name: str
    kind: Literal["linear", "head"]
    role: str
    layer: int
    stack: Literal["decoder", "encoder"]
    d_in: int
    d_out: int


class Binding(Protocol):
    """Modules of G users bound to a batch whose rows come in G equal groups, one after the other."""

    @property
    def groups(self) -> int:
        """Returns G."""
        ...

    @property
    def sites(self) -> Mapping[str, Site]:
        """Returns the places where the modules act, by name."""
        ...

    def apply(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Returns y [G, rows, d_out] changed by each group's module, given x [G, rows, d_in]."""
        ...


class Attachment:
    """Modules acting on a model during one pass.

    Attributes:
        binding: the modules, or None.
        tokens: how the tokens of the running batch fall to the groups; None: equally. A family that runs rows of
            different lengths end to end says so here before it runs them.
    """

    def __init__(self, binding: Binding | None) -> None:
        self.binding = binding
        self.tokens: Ragged | None = None

    def spread(self, lengths: Tensor) -> None:
        """Notes that rows of these lengths [rows] are about to be run end to end."""
        if self.binding is not None:
            self.tokens = Ragged(lengths.view(self.binding.groups, -1).sum(1))

    def change(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Returns the output y of a site, changed by every group's module."""
        binding = self.binding
        assert binding is not None  # noqa: S101  (hooks exist only with a binding)
        if self.tokens is None:
            x_gnd, y_gnd = (z.reshape(binding.groups, -1, z.shape[-1]) for z in (x, y))
            return binding.apply(site, x_gnd, y_gnd).view(y.shape)
        x_gnd, y_gnd = (self.tokens.pad(z[0]) for z in (x, y))
        return self.tokens.unpad(binding.apply(site, x_gnd, y_gnd))[None]


def _hook(site: Site, attachment: Attachment) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    return lambda _, args, y: attachment.change(site, args[0], y)


@contextmanager
def attached(model: nn.Module, binding: Binding | None) -> Iterator[Attachment]:
    """Lets the binding's modules act on the model's linear sites inside the block; the model itself never changes."""
    handles, attachment = [], Attachment(binding)
    try:
        if binding is not None:
            for site in binding.sites.values():
                if site.kind == "linear":
                    module = model.get_submodule(site.name)
                    handles.append(module.register_forward_hook(_hook(site, attachment)))
        yield attachment
    finally:
        for handle in handles:
            handle.remove()


# A hub model's own names for its linear maps, in one vocabulary.
ROLES = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "out_proj": "o", "dense_o": "o",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
    "q": "q", "k": "k", "v": "v", "o": "o", "wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down",
    "query": "q", "key": "k", "value": "v", "c_attn": "qkv", "c_fc": "up",
    "q_lin": "q", "k_lin": "k", "v_lin": "v", "out_lin": "o", "lin1": "up", "lin2": "down",
    "qkv_proj": "qkv", "query_key_value": "qkv", "gate_up_proj": "up", "dense_h_to_4h": "up", "dense_4h_to_h": "down",
    "attn.c_proj": "o", "mlp.c_proj": "down", "attention.dense": "o",
    "attention.output.dense": "o", "intermediate.dense": "up", "output.dense": "down",
}  # fmt: skip


def linear_sites(
    model: nn.Module, layer: nn.Module, number: int, stack: Literal["decoder", "encoder"]
) -> Iterator[Site]:
    """Yields a site for every linear map of a layer whose role is known, in the model's own order."""
    prefix = next(name for name, module in model.named_modules() if module is layer)
    for path, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or isinstance(module, nn.Embedding):
            continue
        role = next((ROLES[tail] for tail in _tails(path) if tail in ROLES), None)
        if role is not None:
            d_out, d_in = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]  # GPT-2's Conv1D
            yield Site(f"{prefix}.{path}", "linear", role, number, stack, d_in, d_out)


def _tails(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[-n:]) for n in (3, 2, 1) if n <= len(parts)]
