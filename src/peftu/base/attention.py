"""The attention that every base runs: PyTorch's fused kernel, with keys and values computed earlier put in front.

Transformers calls it through its attention interface, so one function serves every model family and the hub's own
layer code stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from peftu.base.finish import capped
from peftu.base.manner import Manner
from peftu.base.packed import Ragged, spread_heads
from peftu.base.places import Places
from peftu.base.virtual import Prefix

KeysValues = tuple[Tensor, Tensor]  # each [rows, kv heads, tokens, head width]
Attend = Callable[[Tensor, Tensor, Tensor, Manner], Tensor]  # query, key, value, how -> [rows, tokens, heads, width]


class KeysMade(Exception):  # noqa: N818  (not an error: the way out of a layer whose rest is not needed)
    """Raised inside a layer by `only_keys`, with its keys and values."""

    def __init__(self, made: KeysValues) -> None:
        self.made = made


def only_keys(query: Tensor, key: Tensor, value: Tensor, manner: Manner) -> Tensor:
    """Leaves the layer once its keys and values are made.

    Raises:
        KeysMade: always.
    """
    raise KeysMade((key, value))


class Memory:
    """Keys and values around one forward pass: what stands before the tokens, and what the pass itself makes.

    Args:
        before: layer -> keys and values of the earlier tokens in one part or several, each [rows or 1, kv heads,
            tokens, head width]: 1 where all rows share them; or None.
        record: layers whose own keys and values are kept in ``made``.
        keys_values: looked at instead of the keys and values that the pass makes, or None.
    """

    def __init__(
        self,
        before: Callable[[int], Sequence[KeysValues]] | None = None,
        record: range = range(0),
        keys_values: KeysValues | None = None,
    ) -> None:
        self.before = before
        self.record = record
        self.keys_values = keys_values
        self.made: dict[int, KeysValues] = {}

    def around(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Sequence[KeysValues], KeysValues]:
        """Returns what a layer looks at, given what it made: earlier keys and values, and those behind them."""
        if layer in self.record:
            self.made[layer] = (keys, values)
        return () if self.before is None else self.before(layer), self.keys_values or (keys, values)


class Earlier:
    """Keys and values of what stands before an answer span: a head that all rows share, and each row's text.

    Args:
        head: layer -> keys and values [1, kv heads, h, head width].
        texts: layer -> keys and values of all texts end to end [tokens, kv heads, head width].
        places: [rows, t] where the rows' texts stand among them.
    """

    def __init__(self, head: Mapping[int, KeysValues], texts: Mapping[int, KeysValues], places: Tensor) -> None:
        self.head, self.texts, self.places = head, texts, places
        self._index: dict[int, Tensor] = {}

    def __call__(self, layer: int) -> list[KeysValues]:
        """Returns the layer's keys and values of the head and of the texts [rows, kv heads, t, head width]."""
        keys, values = self.texts[layer]
        _, heads, width = keys.shape
        if heads not in self._index:
            self._index[heads] = spread_heads(self.places, heads)
        # One gather in the order that the products want: a copy that turns heads and tokens took twice as long.
        shape = (len(self.places), heads, self.places.shape[1], width)
        picked = (x.view(-1, width).index_select(0, self._index[heads]).view(shape) for x in (keys, values))
        return [self.head[layer], cast(KeysValues, tuple(picked))]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Places | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    memory: Memory | None = None,
    ragged: Ragged | None = None,
    prefix: Prefix | None = None,
    instead: Attend | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Returns [rows, tokens, heads, width] attention output (and no weights), as the interface asks.

    The mask is boolean (True: may look) or additive, [rows or 1, 1, queries, keys], with the earlier tokens' columns
    in front; given as places, it is made for the layer's window. With ``ragged``, all rows come end to end as one, and
    are padded for the attention alone. Heads that share keys are folded into the query axis, so shared keys are never
    copied. A ``prefix`` stands between earlier and own tokens; the mask has no columns for it yet. ``instead`` does all
    of it where given. What a layer asks for besides is in ``asked``, see `Manner`.
    """
    manner = Manner.of(query.shape[-1] ** -0.5 if scaling is None else scaling, asked)
    if instead is not None:
        return instead(query, key, value, manner), None
    if ragged is not None:
        query, key, value = (ragged.pad(x[0].transpose(0, 1)).transpose(1, 2) for x in (query, key, value))
    rows, heads, queries, width = query.shape
    shared = heads // key.shape[1]
    causal = attention_mask is None and queries > 1 and bool(getattr(module, "is_causal", False))
    if causal and (shared > 1 or manner.bias is not None or prefix is not None):
        attention_mask, causal = causal_mask(queries, query.device), False
    before: Sequence[KeysValues] = ()
    if memory is not None:
        before, (key, value) = memory.around(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    mask = _seen(attention_mask, manner, prefix, key)
    if prefix is not None:
        key, value = prefix.join(key, value)
    if manner.bias is not None:
        mask = _added(manner.added(query, key), mask)
    if shared > 1:
        query = query.reshape(rows, heads // shared, shared * queries, width)
        mask = None if mask is None else mask.repeat(1, 1, shared, 1)
    if before or not manner.plain:
        out = _attend_both(query, before, (key, value), mask, manner)
    else:
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=manner.scale)
    out = out.reshape(rows, heads, queries, width).transpose(1, 2)
    return (out.contiguous() if ragged is None else ragged.unpad(out)[None]), None


def _attend_both(
    query: Tensor, before: Sequence[KeysValues], current: KeysValues, mask: Tensor | None, manner: Manner
) -> Tensor:
    """Returns attention over earlier and own tokens.

    Written out because the earlier part needs no gradient: the fused kernel would compute one for every earlier key
    (measured: a quarter of a training step at six span tokens).
    """
    query, parts = query * manner.scale, [*before, current]
    logits = capped(torch.cat([_times(query, keys.mT) for keys, _ in parts], -1), manner.cap)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    weights = manner.weights(logits, query.shape[1], torch.float32).to(query.dtype)
    shares = torch.split(weights, [values.shape[2] for _, values in parts], -1)
    first, *more = (_times(share, values) for share, (_, values) in zip(shares, parts, strict=True))
    return sum(more, first)


def _times(x: Tensor, y: Tensor) -> Tensor:
    """Returns the product of x [rows, heads, q, m] and y [rows or 1, heads, m, w]; one y is not copied for all rows."""
    if len(y) == len(x):
        return x @ y
    rows, heads, queries, _ = x.shape
    return (x.transpose(0, 1).flatten(1, 2) @ y[0]).view(heads, rows, queries, y.shape[-1]).transpose(0, 1)


def _seen(mask: Tensor | Places | None, manner: Manner, prefix: Prefix | None, key: Tensor) -> Tensor | None:
    """Returns the mask of a layer's own keys, virtual ones in front of them, and of the earlier ones."""
    if isinstance(mask, Places):
        return mask.mask(manner.window, prefix, key.shape[2])
    return mask if prefix is None else prefix.seen(mask, key)


def _added(bias: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return bias + mask


AttentionInterface.register("peftu", attend)
AttentionMaskInterface.register("peftu", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def use_our_attention(model: nn.Module) -> None:
    """Makes every submodule of a hub model call `attend`."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = "peftu"


def causal_mask(queries: int, device: torch.device) -> Tensor:
    """Returns [1, 1, queries, queries] True where a token may look at itself or at an earlier one."""
    return torch.ones(queries, queries, dtype=torch.bool, device=device).tril()[None, None]
