"""Encoders whose attention does not ask transformers' attention interface: brought to our `attend`.

Their layers hand a mask on to the attention and little else, so what `attend` is told takes the mask's place.
"""

from abc import abstractmethod
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar

from torch import Tensor, nn

from peftu.base.families.encoder import Encoder
from peftu.base.pooling import SentenceConfig
from peftu.base.sites import Attachment


@dataclass(frozen=True)
class Told:
    """What an attention is told.

    Attributes:
        options: arguments of `attend`.
        attachment: modules that act on the running pass.
    """

    options: dict[str, Any]
    attachment: Attachment


class Rerouted(Encoder):
    """An encoder whose attention modules run our function."""

    attention: ClassVar[str]  # path of the attention module in a layer

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        super().__init__(model, tokenizer, sentence)
        for layer in self.stack:
            module = layer.get_submodule(self.attention)
            module.forward = MethodType(self.attended, module)

    def call(self, number: int, h_btd: Tensor, options: dict[str, Any], attachment: Attachment) -> Any:
        """Returns what a layer makes of the states before it."""
        return self.stack[number](h_btd, attention_mask=Told(options, attachment))

    @staticmethod
    @abstractmethod
    def attended(attention: Any, h_btd: Tensor, told: Told, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Returns what the attention module makes of the states before it, as its own forward pass does."""


def heads_of(x: Tensor, width: int) -> Tensor:
    """Returns [rows, heads, tokens, width] from [rows, tokens, heads × width]."""
    return x.view(*x.shape[:-1], -1, width).transpose(1, 2)
