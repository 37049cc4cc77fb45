"""Falcon: decoders whose attention does not ask transformers' attention interface, and is brought to our `attend`."""

from collections.abc import Mapping
from types import MethodType
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from peftu.base.attention import attend
from peftu.base.families.decoder import Decoder
from peftu.base.families.family import ModelType
from peftu.base.places import Places
from peftu.base.pooling import SentenceConfig


class Falcon(Decoder):
    """A decoder whose layers hand on mask and cache, and little else: what `attend` is told takes the cache's place."""

    types: ClassVar[Mapping[str, ModelType]] = {"falcon": ModelType(quantize=False)}

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        super().__init__(model, tokenizer, sentence)
        for layer in self.stack:
            attention = cast(Any, layer).self_attention
            attention.forward = MethodType(_attended, attention)

    def layer(self, number: int, h_btd: Tensor, places: Places, told: dict[str, Any], **usual: Any) -> Tensor:
        """Returns the hidden states after a layer."""
        return cast(Tensor, self.stack[number](h_btd, None, places, layer_past=told, **usual)[0])


def _attended(
    attention: Any,
    h_btd: Tensor,
    alibi: None,
    attention_mask: Places,
    position_embeddings: tuple[Tensor, Tensor],
    layer_past: dict[str, Any],
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns what the attention module makes of the states before it, as its own forward pass does."""
    query, key, value = attention._split_heads(attention.query_key_value(h_btd))
    # They come once for each head that reads them.
    key, value = (x.unflatten(2, (attention.num_kv_heads, -1))[:, :, :, 0] for x in (key, value))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    out, _weights = attend(attention, query, key, value, attention_mask, **layer_past)
    return attention.dense(out.flatten(2)), None
