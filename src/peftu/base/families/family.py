"""What each family of base models gives, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from peftu.base.finish import Finish
from peftu.base.packed import sent
from peftu.base.pooling import SentenceConfig
from peftu.base.prompt import About, Prompt, TrieNode
from peftu.base.reader import Cuts, Reader
from peftu.base.region import Region
from peftu.base.sites import Attachment, Site
from peftu.base.virtual import Prefixes, VirtualStates, virtual_prefixes, virtual_states
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.base.answers import Writer

Kind = Literal["decoder", "encoder", "encoder_decoder"]
Span = Literal["all", "answer", "last"]


@dataclass
class Context:
    """What `prefill` computed once for n texts: all that the region's layers need, nothing of any user.

    Attributes:
        region: the region it was made for.
        prompt: the prompt it was made with.
        nodes: branching points of the label words; empty for encoders, which score labels by a head.
        count: number of rows: of texts or, where answers are free text, of answers.
        cut: texts of which what the question is about lost its end, being longer than ``prompt.max_tokens``.
        tokens: number of tokens that were run through the frozen part.
        span_tokens: tokens of the longest row that the region runs at every read.
        state: the family's own tensors.
        beside_cut: texts of which what stands beside that lost a part.
        answers_cut: answers that were longer than ``prompt.answer_tokens``.
        longest: tokens of the longest input.
        seconds: that computing it took in an earlier run, where it was read from the cache.
    """

    region: Region
    prompt: Prompt
    nodes: tuple[TrieNode, ...]
    count: int
    cut: int
    tokens: int
    span_tokens: int
    state: dict[Any, Any] = field(default_factory=dict)
    longest: int = 0
    beside_cut: int = 0
    answers_cut: int = 0
    seconds: float = 0.0


Progress = Callable[[int], None]


@dataclass(frozen=True)
class ModelType:
    """A row of a family's table: a type of hub model that scores here as it does on its own, held by tests/integration.

    Attributes:
        quantize: its linear maps may be held in 8 or 4 bits.
    """

    quantize: bool = True


class Family(ABC):
    """A family knows how its models are laid out, run and asked; nothing else does.

    A subclass sets the class variables, and in its constructor what is listed as attributes.

    Args:
        model: the hub model.
        tokenizer: its tokenizer.
        sentence: how a sentence vector is made, where the family makes one.

    Attributes:
        layers: of the deepest stack.
        width: of the states that are scored.
        reader: cuts prompts into tokens.
        head: the output matrix, where there is one.
        finish: what the model makes of its products.
        sentence: how a sentence vector is made; None where the family writes.
    """

    kind: ClassVar[Kind]
    types: ClassVar[Mapping[str, ModelType]]  # by the name in config.json
    spans: ClassVar[tuple[Span, ...]]  # that a region may have
    default_region: ClassVar[RegionSpec]  # measured: docs/performance.md
    auto: ClassVar[Any]  # transformers' class that reads the weights
    # In the name of a hub model that has an output matrix, one of these; none where the family writes nothing.
    writers: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[frozenset[str]]  # entries of a context's state that are the prompt's, and no text's

    model: nn.Module
    tokenizer: Any
    layers: int
    width: int
    reader: Reader
    head: Any
    finish: Finish = Finish()
    sentence: SentenceConfig | None = None

    @abstractmethod
    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None: ...

    @property
    def config(self) -> Any:
        """Returns the hub model's settings."""
        return cast(Any, self.model).config

    @property
    def device(self) -> torch.device:
        """Returns the device of the weights."""
        return next(self.model.parameters()).device

    # --- reading ------------------------------------------------------------------------------------------------

    def cuts(self, prompt: Prompt, texts: Sequence[Text]) -> Cuts:
        """Returns how many texts are too long, and what of them is not read."""
        return self.reader.read(prompt, texts).cuts

    def recorded(self, prompt: Prompt) -> Prompt:
        """Returns the prompt with the frame that the base's template gives it now, so that it is read so for ever."""
        return replace(prompt, frame=self.reader.frame(prompt)) if self.writers else prompt

    def limit(self) -> int | None:
        """Returns how many tokens the model can look at at once; None where it sets no limit."""
        return context_limit(self.config)

    def readable(self, tokens: int) -> int:
        """Returns how many tokens of a text alone are read where so many are asked for."""
        limit = self.limit()
        return tokens if limit is None else min(tokens, limit)

    def taken(self, prompt: Prompt) -> int:
        """Returns how many tokens a prompt takes beside a text, with its longest answer where that stands behind it."""
        return len(self.reader.read(prompt, [Text("")]).lists[0]) + self.answer_tokens(prompt) if self.writers else 0

    def within(self, prompt: Prompt) -> Prompt:
        """Returns a prompt whose texts may be no longer than the model has room for: they are cut, and counted.

        Raises:
            PeftuError: there is room for none.
        """
        limit = self.limit()
        if limit is None:
            return prompt
        room = limit - (taken := self.taken(prompt))
        if room < 1:
            raise PeftuError(
                f"base: reads {limit} tokens at most, the prompt takes {taken} without a text — shorten it"
            )
        return replace(prompt, max_tokens=min(prompt.max_tokens, room))

    def answer_tokens(self, prompt: Prompt) -> int:
        """Returns how many tokens of the answer stand behind a prompt in the same sequence."""
        return 0

    def invocation(self, prompt: Prompt, region: Region) -> list[int]:
        """Returns the tokens between text and answer that lie in a region."""
        return []

    # --- running ------------------------------------------------------------------------------------------------

    @abstractmethod
    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the places inside the region where a module may act."""

    @abstractmethod
    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress) -> Context:
        """Returns the context of the texts; runs without gradients."""

    @abstractmethod
    def hidden(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [rows, width] the state that is read at a node (node 0 where there are none).

        Row numbers come on the processor, and nothing is asked of the device.
        """

    @abstractmethod
    def scores(self, context: Context, hidden: Sequence[Tensor]) -> Tensor:
        """Returns [rows, labels] float32 scores, given each node's states."""

    @abstractmethod
    def embed(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> Tensor:
        """Returns [texts, width] float32 unit-length sentence embeddings."""

    @abstractmethod
    def primer(self, prompt: Prompt, region: Region) -> dict[str, Tensor]:
        """Returns what the base makes of instruction and label words, by site: where virtual tokens start.

        That is states [tokens, d] at the region's floor, and keys and values [2, tokens, d] of a layer where the
        family gives them. Label words come last.
        """

    def writer(self) -> "Writer":
        """Returns how the family reads and writes answers in free text; there is none where it has no ``writers``."""
        raise NotImplementedError


def paired(keys: Tensor, values: Tensor) -> Tensor:
    """Returns [2, tokens, heads × head width] from keys and values [1, heads, tokens, head width] each."""
    return torch.stack([x[0].transpose(0, 1).flatten(1) for x in (keys, values)])


def states_of(made: Any) -> Tensor:
    """Returns the states among what a layer of a hub model gives, with other things or without."""
    return cast(Tensor, made[0] if isinstance(made, tuple) else made)


def first_attribute(owner: nn.Module, *paths: str) -> nn.Module | None:
    """Returns the first submodule that exists among dotted paths, else None."""
    for path in paths:
        module: Any = owner
        for part in path.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.Module):
            return module
    return None


Stack = Literal["decoder", "encoder"]


def virtual_sites(config: Any, width: int, states_in: Stack, floor: int, kv_in: Stack, layers: range) -> list[Site]:
    """Returns the sites of virtual tokens: states at a region's floor, keys and values in each of its layers.

    Args:
        config: of the hub model.
        width: of the states.
        states_in: the stack that the states enter.
        floor: the layer that the states enter at.
        kv_in: the stack whose layers have keys and values.
        layers: which they are.
    """
    d_kv = kv_width(config)
    kv = [Site(f"kv.{layer}", "kv", "kv", layer, kv_in, d_kv, d_kv) for layer in layers]
    return [Site("tokens", "tokens", "tokens", floor, states_in, width, width), *kv]


def kv_width(config: Any) -> int:
    """Returns how many numbers a token's keys take in a layer, and its values again."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    d_head = next((int(d) for name in ("d_kv", "head_dim") if (d := getattr(config, name, None))), width // heads)
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return d_head  # Falcon
    return d_head * int(getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads)


def context_limit(config: Any, offset: int = 0) -> int | None:
    """Returns how many tokens a model was made to read at once; None where it sets no limit.

    Args:
        config: of the hub model.
        offset: places that the model counts and no token has.
    """
    places = getattr(config, "max_position_embeddings", None)
    return None if places is None else int(places) - offset


def check_reach(config: Any, tokens: int, offset: int = 0) -> None:
    """Checks that a model can look at so many tokens at once.

    Args:
        config: of the hub model.
        tokens: of the longest input.
        offset: places that the model counts and no token has.

    Raises:
        PeftuError: it was made for fewer.
    """
    reach = context_limit(config, offset)
    if reach is not None and tokens > reach:
        raise PeftuError(f"base: reads {reach} tokens at most, the longest input has {tokens} — lower max_tokens")


def virtual_tokens(
    config: Any, context: Context, rows: int, attachment: Attachment, offset: int = 0
) -> tuple[VirtualStates | None, Prefixes | None]:
    """Returns the virtual states and the virtual keys and values of a batch of rows; None where no row has any.

    Args:
        config: of the hub model.
        context: what the rows are read from.
        rows: how many there are.
        attachment: the modules that have them.
        offset: places that the model counts and no token has.

    Raises:
        PeftuError: with them, the longest input is longer than the model can look at.
    """
    states, prefixes = (make(attachment.binding, rows) for make in (virtual_states, virtual_prefixes))
    more = sum(virtual.count for virtual in (states, prefixes) if virtual is not None)
    if more:
        check_reach(config, context.longest + more, offset)
    return cast(VirtualStates | None, states), cast(Prefixes | None, prefixes)


def label_logits(head: nn.Module, h_bd: Tensor, node: TrieNode) -> Tensor:
    """Returns [rows, branches] float32 logits; only the branches' rows of the output matrix are read."""
    chosen = sent(torch.tensor(node.tokens), h_bd.device)
    weight, bias = cast(Tensor, head.weight), getattr(head, "bias", None)
    logits_bk = h_bd.float() @ weight[chosen].float().T
    return logits_bk if bias is None else logits_bk + bias[chosen].float()


def written_stops(model: nn.Module) -> Any:
    """Returns what a model's generation config says of where writing ends: a token, several, or nothing."""
    return getattr(getattr(model, "generation_config", None), "eos_token_id", None)


def forced_first(model: nn.Module) -> dict[str, Any]:
    """Returns 'forced_bos_token_id' -> what a model's ``generate`` makes it say first, or nothing."""
    name = "forced_bos_token_id"
    token = getattr(getattr(model, "generation_config", None), name, None)
    return {} if token is None else {name: token}


def end_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Returns the tokens that end what a model writes, as its ``generate`` has them, and its tokenizer's."""
    ends = written_stops(model)
    listed = [ends] if isinstance(ends, int) else list(ends or [])
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)


def unit(x_nd: Tensor) -> Tensor:
    """Returns the rows scaled to length one, in float32."""
    return torch.nn.functional.normalize(x_nd.float(), dim=-1)
