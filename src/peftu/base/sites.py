"""Places in a model where a module may act, and how it is attached for one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from peftu.base.packed import Ragged


@dataclass(frozen=True)
class Site:
    """One place where a module may act.

    Attributes:
        name: dotted path of the submodule in the hub model; 'head', 'tokens'; of a block or kv, a name of its own.
        kind: 'linear' (a frozen linear map x -> y), 'block' (several of them, from the first one's input to the last
            one's output), 'head' (pooled features -> label scores), 'tokens' (virtual tokens: states of width d_out at
            the region's floor) or 'kv' (virtual keys and values of width d_out in front of a layer's own).
        role: what the map is in its family: q, k, v, o, qkv, up, gate, down; of a block: mlp; else as the kind.
        layer: layer number; the head counts as the layer above the last.
        stack: 'decoder' or 'encoder'.
        d_in: width of x.
        d_out: width of y.
        cross: is it of an encoder-decoder's attention over the encoded text?
        ends: paths of a block's first and last linear map.
    """

    name: str
    kind: Literal["linear", "block", "head", "tokens", "kv"]
    role: str
    layer: int
    stack: Literal["decoder", "encoder"]
    d_in: int
    d_out: int
    cross: bool = False
    ends: tuple[str, str] | None = None


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

    @property
    def enters(self) -> bool:
        """Returns whether the modules change what goes into linear maps, too."""
        ...

    def enter(self, site: Site, x: Tensor) -> Tensor:
        """Returns x [G, rows, d_in] changed by each group's module, or x itself where they leave it."""
        ...

    def apply(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Returns y [G, rows, d_out] changed by each group's module, given x [G, rows, d_in]."""
        ...

    @property
    def on(self) -> Tensor | None:
        """Returns [G] bool, whose module is switched on, on the processor; None where modules have no switch."""
        ...

    def virtual(self, site: Site) -> Tensor:
        """Returns each group's virtual tokens: states [G, n, d_out], or keys and values [G, 2, n, d_out]."""
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
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def groups(self) -> int:
        """Returns in how many equal groups the rows come."""
        return 1 if self.binding is None else self.binding.groups

    @contextmanager
    def evenly(self) -> Iterator[int]:
        """Lets what sites read inside the block come as [G, rows, d], as many of each group; yields G."""
        tokens, self.tokens = self.tokens, None
        try:
            yield self.groups
        finally:
            self.tokens = tokens

    def spread(self, lengths: Tensor, device: torch.device) -> None:
        """Notes that rows of these lengths [rows], which the processor has, are about to be run end to end."""
        if self.binding is not None:
            self.tokens = Ragged(lengths.view(self.groups, -1).sum(1), device)

    def enter(self, site: Site, x: Tensor) -> Tensor:
        """Returns the input x of a linear map, changed by every group's module."""
        x_gnd = self._input(x)
        changed = self._bound().enter(site, x_gnd)
        return x if changed is x_gnd else self._joined(changed, x)

    def change(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Returns the output y of a site, changed by every group's module."""
        x_gnd, y_gnd = self._input(x), self._split(y)
        changed = self._bound().apply(site, x_gnd, y_gnd)
        return y if changed is y_gnd else self._joined(changed, y)

    def _changed(self, site: Site, x: Tensor, out: Any) -> Any:
        """Returns what a module of the hub's gives, its first output changed where it gives several."""
        return (self.change(site, x, out[0]), *out[1:]) if isinstance(out, tuple) else self.change(site, x, out)

    def _bound(self) -> Binding:
        assert self.binding is not None  # noqa: S101  (hooks exist only with a binding)
        return self.binding

    def _split(self, x: Tensor) -> Tensor:
        """Returns [G, rows, d] the tokens of each group."""
        return x.reshape(self.groups, -1, x.shape[-1]) if self.tokens is None else self.tokens.pad(x[0])

    def _input(self, x: Tensor) -> Tensor:
        """Returns the input x of a site, split; q, k and v read the same one, which is then split once."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self._split(x))
        return self._last[1]

    def _joined(self, x_gnd: Tensor, like: Tensor) -> Tensor:
        """Returns the groups' tokens as they came."""
        return x_gnd.view(like.shape) if self.tokens is None else self.tokens.unpad(x_gnd)[None]

    def hook(self, model: nn.Module, site: Site) -> Iterator[RemovableHandle]:
        """Yields a handle for each hook that a site of the model needs."""
        first, last = (model.get_submodule(name) for name in site.ends or (site.name, site.name))
        if site.kind == "block":
            inputs: list[Tensor] = []
            yield first.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
            yield last.register_forward_hook(lambda _, args, out: self._changed(site, inputs.pop(), out))
        elif site.kind == "linear":
            if self._bound().enters:
                yield first.register_forward_pre_hook(lambda _, args: (self.enter(site, args[0]), *args[1:]))
            yield last.register_forward_hook(lambda _, args, y: self.change(site, args[0], y))


@contextmanager
def attached(model: nn.Module, binding: Binding | None) -> Iterator[Attachment]:
    """Lets the binding's modules act on the model's sites inside the block; the model itself never changes."""
    handles: list[RemovableHandle] = []
    attachment = Attachment(binding)
    try:
        if binding is not None:
            for site in binding.sites.values():
                if site.kind in ("linear", "block"):
                    handles += attachment.hook(model, site)
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
    "query_proj": "q", "key_proj": "k", "value_proj": "v",
    "fc1": "up", "fc2": "down", "Wqkv": "qkv", "attn.Wo": "o", "Wi": "up", "mlp.Wo": "down",
    "q_lin": "q", "k_lin": "k", "v_lin": "v", "out_lin": "o", "lin1": "up", "lin2": "down",
    "qkv_proj": "qkv", "query_key_value": "qkv", "gate_up_proj": "up", "dense_h_to_4h": "up", "dense_4h_to_h": "down",
    "attn.c_proj": "o", "mlp.c_proj": "down", "attention.dense": "o",
    "self_attention.dense": "o", "attention.output.dense": "o", "intermediate.dense": "up", "output.dense": "down",
}  # fmt: skip


def linear_sites(
    model: nn.Module, layer: nn.Module, number: int, stack: Literal["decoder", "encoder"]
) -> Iterator[Site]:
    """Yields a site for every linear map of a layer whose role is known, in the model's own order, then its MLP."""
    prefix = next(name for name, module in model.named_modules() if module is layer)
    roles: dict[str, Site] = {}
    for path, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or isinstance(module, nn.Embedding):
            continue
        role = next((ROLES[tail] for tail in _tails(path) if tail in ROLES), None)
        if role is not None:
            d_in, d_out = _widths(module, weight)
            cross = "EncDecAttention" in path or "encoder_attn" in path
            roles.setdefault(role, site := Site(f"{prefix}.{path}", "linear", role, number, stack, d_in, d_out, cross))
            yield site
    block = f"{prefix}.mlp"
    if {"up", "down"} <= roles.keys():
        up, down = roles["up"], roles["down"]
        yield Site(block, "block", "mlp", number, stack, up.d_in, down.d_out, ends=(up.name, down.name))
    elif "o" in roles and hasattr(layer, "mlp"):  # experts, whose maps are no modules
        yield Site(block, "block", "mlp", number, stack, roles["o"].d_out, roles["o"].d_out, ends=(block, block))


def _widths(module: nn.Module, weight: torch.Tensor) -> tuple[int, int]:
    """Returns the widths of a linear map's input and output; quantised weights are packed, and have another shape."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    d_in, d_out = weight.shape  # GPT-2's Conv1D
    return int(d_in), int(d_out)


def _tails(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[-n:]) for n in (3, 2, 1) if n <= len(parts)]
