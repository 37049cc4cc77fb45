"""The two stacks of an encoder-decoder, as T5 and as BART lay them out.

Shape letters: b rows, t tokens, d width.
"""

from abc import ABC, abstractmethod
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import embedding

from peftu.base.attention import KeysValues


class Stack(ABC):
    """A hub model's encoder or decoder.

    Args:
        hub: the stack.

    Attributes:
        layers: its layers.
        norm: what its states pass last, or None.
    """

    layers: nn.ModuleList
    norm: nn.Module | None

    def __init__(self, hub: Any) -> None:
        self.hub = hub

    def words(self, ids: Tensor) -> Tensor:
        """Returns [b, t, d] the tokens' embeddings."""
        return cast(Tensor, self.hub.embed_tokens(ids))

    def enter(self, h_btd: Tensor, positions: Tensor) -> Tensor:
        """Returns what enters the first layer, given embeddings and their places [b or 1, t]."""
        return h_btd

    def by_place(self, tokens: int, past: int = 0) -> dict[str, Any]:
        """Returns the arguments of every layer that depend on the tokens' places, of which so many stand before."""
        return {}

    def leave(self, h_btd: Tensor) -> Tensor:
        """Returns what is read of the last layer's states."""
        return h_btd if self.norm is None else cast(Tensor, self.norm(h_btd))

    @property
    @abstractmethod
    def heads(self) -> int:
        """Returns how many heads each attention over its own tokens has."""

    @abstractmethod
    def cross(self, encoded: Tensor, layer: int) -> KeysValues:
        """Returns a decoder layer's keys and values of the encoded text, each [b, t, heads, head width]."""


class T5Stack(Stack):
    """Places are told apart by a bias, which the first layer holds for all."""

    def __init__(self, hub: Any) -> None:
        super().__init__(hub)
        self.layers, self.norm = hub.block, hub.final_layer_norm

    def by_place(self, tokens: int, past: int = 0) -> dict[str, Any]:
        """Returns the bias [1, heads, tokens, past + tokens]."""
        attention = cast(Any, self.layers[0]).layer[0].SelfAttention
        return {"position_bias": attention.compute_bias(tokens, past + tokens, past_seen_tokens=past)}

    @property
    def heads(self) -> int:
        """Returns how many heads each attention over its own tokens has."""
        return int(self.hub.config.num_heads)

    def cross(self, encoded: Tensor, layer: int) -> KeysValues:
        """Returns a decoder layer's keys and values of the encoded text, each [b, t, heads, head width]."""
        attention = cast(Any, self.layers[layer]).layer[1].EncDecAttention
        shape = (*encoded.shape[:-1], attention.n_heads, attention.key_value_proj_dim)
        return attention.k(encoded).view(shape), attention.v(encoded).view(shape)


class BartStack(Stack):
    """Places are added to the words, which BART's own norm then passes; Pegasus and mBART have a norm at the end."""

    def __init__(self, hub: Any) -> None:
        super().__init__(hub)
        self.layers, self.norm = hub.layers, getattr(hub, "layer_norm", None)

    def words(self, ids: Tensor) -> Tensor:
        """Returns [b, t, d] the tokens' embeddings."""
        return super().words(ids) * getattr(self.hub, "embed_scale", 1.0)  # Pegasus; others' scale themselves

    def enter(self, h_btd: Tensor, positions: Tensor) -> Tensor:
        """Returns what enters the first layer, given embeddings and their places [b or 1, t]."""
        places, norm = self.hub.embed_positions, getattr(self.hub, "layernorm_embedding", None)
        h_btd = h_btd + embedding(positions + getattr(places, "offset", 0), places.weight)
        return h_btd if norm is None else cast(Tensor, norm(h_btd))

    @property
    def heads(self) -> int:
        """Returns how many heads each attention over its own tokens has."""
        return int(cast(Any, self.layers[0]).self_attn.num_heads)

    def cross(self, encoded: Tensor, layer: int) -> KeysValues:
        """Returns a decoder layer's keys and values of the encoded text, each [b, t, heads, head width]."""
        attention = cast(Any, self.layers[layer]).encoder_attn
        shape = (*encoded.shape[:-1], attention.num_heads, attention.head_dim)
        return attention.k_proj(encoded).view(shape), attention.v_proj(encoded).view(shape)
