"""MPNet: its layers share one bias for how far two tokens are apart, which the encoder holds."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor

from peftu.base.attention import attend
from peftu.base.families.family import ModelType
from peftu.base.families.rerouted import Rerouted, Told, heads_of


class MPNet(Rerouted):
    """An encoder with relative positions beside absolute ones."""

    types: ClassVar[Mapping[str, ModelType]] = {"mpnet": ModelType()}
    attention: ClassVar[str] = "attention.attn"

    def by_place(self, h_btd: Tensor, positions: Tensor, tokens: int, virtual: int) -> Callable[[int], dict[str, Any]]:
        """Returns the bias of the places, the same for every layer."""
        whole = h_btd.new_empty(1, virtual + tokens, 0)
        bias = cast(Any, self.model).encoder.compute_position_bias(whole)[..., virtual:, :]
        return lambda _: {"position_bias": bias}

    @staticmethod
    def attended(attention: Any, h_btd: Tensor, told: Told, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Returns what the attention module makes of the states before it, as its own forward pass does."""
        made = (project(h_btd) for project in (attention.q, attention.k, attention.v))
        query, key, value = (heads_of(x, attention.attention_head_size) for x in made)
        out, weights = attend(attention, query, key, value, **told.options)
        return attention.o(out.flatten(2)), weights
