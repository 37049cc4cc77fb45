"""Encoders (BERT, MiniLM, RoBERTa, ELECTRA, …): one sentence vector, scored against the label statements.

The base's own score of a label is the cosine of the text with 'instruction word', scaled. A module can add a head
of its own on the sentence vector. Shape letters: n texts, b rows, t tokens, d width.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import AutoModel

from peftu.base.attention import Attend
from peftu.base.families.family import (
    Context,
    Family,
    Kind,
    ModelType,
    Progress,
    Span,
    context_limit,
    first_attribute,
    states_of,
    unit,
    virtual_sites,
    virtual_tokens,
)
from peftu.base.flat import Flat
from peftu.base.packed import Packed, Ragged, length_batches, padded, ranges, sent
from peftu.base.pooling import Pool, SentenceConfig
from peftu.base.prompt import About, Prompt
from peftu.base.reader import Cuts, Reader
from peftu.base.region import Region
from peftu.base.sites import Attachment, Site, linear_sites
from peftu.base.virtual import Prefixes
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError

PREFILL_TOKENS = 4096
COSINE_SCALE = 10.0  # cosines of sentence vectors differ by about 0.1 between labels; this makes that about one nat


def pooled(pool: Pool, h_td: Tensor, lengths: Tensor) -> Tensor:
    """Returns [rows, d] float32 vectors of texts that lie end to end; a mean is given as a sum, which points the same.

    Args:
        pool: how.
        h_td: [tokens, d] states of the texts' own tokens.
        lengths: [rows] how many each text has, at least one; on the processor.
    """
    h_td, rows = h_td.float(), len(lengths)
    if pool == "cls":
        return h_td[sent(lengths.cumsum(0) - lengths, h_td.device)]
    _, row_t = ranges(torch.zeros_like(lengths), lengths, h_td.device)
    if pool == "max":
        least = h_td.new_full((rows, h_td.shape[1]), float("-inf"))
        return least.scatter_reduce(0, row_t[:, None].expand_as(h_td), h_td, "amax")
    return h_td.new_zeros(rows, h_td.shape[1]).index_add(0, row_t, h_td)


def lowering(tokenizer: Any) -> Any:
    """Returns a copy of a tokenizer that puts texts into lower case first."""
    lower = copy.deepcopy(tokenizer)
    usual = lower.backend_tokenizer.normalizer
    first = normalizers.Lowercase()
    lower.backend_tokenizer.normalizer = first if usual is None else normalizers.Sequence([first, usual])
    return lower


class Encoder(Family):
    """A bidirectional encoder with a pooled sentence vector."""

    kind: ClassVar[Kind] = "encoder"
    types: ClassVar[Mapping[str, ModelType]] = {
        "bert": ModelType(),
        "distilbert": ModelType(),
        "electra": ModelType(),
        "roberta": ModelType(),
        "xlm-roberta": ModelType(),
    }
    spans: ClassVar[tuple[Span, ...]] = ("all",)
    default_region: ClassVar[RegionSpec] = RegionSpec(depth=2, span="all")
    auto: ClassVar[Any] = AutoModel
    shared: ClassVar[frozenset[str]] = frozenset({"labels"})
    by_content: ClassVar[bool] = False  # what is added to an attention's logits depends on queries and keys
    sentence: SentenceConfig

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        self.model, self.tokenizer, self.sentence = model, tokenizer, sentence or SentenceConfig()
        self.reader = Reader(lowering(tokenizer) if self.sentence.lower else tokenizer, continues=False)
        stack = first_attribute(model, "encoder.layer", "transformer.layer", "layers")
        embeddings = first_attribute(model, "embeddings")
        if not isinstance(stack, nn.ModuleList) or embeddings is None:
            raise PeftuError(f"base: {type(model).__name__} is not laid out like an encoder peftu knows — use another")
        self.stack, self.embeddings, self.words = stack, embeddings, cast(Any, model).get_input_embeddings()
        self.widened, self.norm = (first_attribute(model, name) for name in ("embeddings_project", "final_norm"))
        cast(Any, model).pooler = None  # never read; where a checkpoint has none, the hub's would be random
        self.layers, self.width = len(stack), int(self.config.hidden_size)
        # RoBERTa counts places from behind its padding token's number.
        unused = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        self.first_place = 0 if unused is None else unused + 1

    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the linear maps of the region's layers, virtual tokens, and the head on the sentence vector."""
        layers = range(region.floor(self.layers), self.layers)
        sites = [site for number in layers for site in linear_sites(self.model, self.stack[number], number, "encoder")]
        width = self.width if layers.start else int(self.words.embedding_dim)  # ELECTRA's words are narrower
        sites += virtual_sites(self.config, width, "encoder", layers.start, "encoder", layers)
        return [*sites, Site("head", "head", "head", self.layers, "encoder", self.width, labels)]

    def limit(self) -> int | None:
        """Returns how many tokens the model can look at at once; None where it sets no limit."""
        return context_limit(self.config, self.first_place)

    def tokens(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> tuple[list[list[int]], Cuts]:
        """Returns the texts' tokens with the special ones, cut to the longest allowed, and how many were cut."""
        most = self.sentence.limit(self.readable(max_tokens))
        reading = self.reader.bodies(texts, most, about, self.sentence.prompt)
        return reading.lists, reading.cuts

    def cuts(self, prompt: Prompt, texts: Sequence[Text]) -> Cuts:
        """Returns how many texts are too long, and what of them is not read."""
        return self.tokens(texts, prompt.max_tokens, prompt.about)[1]

    def enter(self, h_btd: Tensor, positions: Tensor) -> Tensor:
        """Returns what enters the first layer, given the tokens' embeddings [b, t, d] and places [b or 1, t]."""
        h_btd = self.embeddings(input_ids=None, inputs_embeds=h_btd, position_ids=positions + self.first_place)
        return h_btd if self.widened is None else cast(Tensor, self.widened(h_btd))

    def by_place(self, h_btd: Tensor, positions: Tensor, tokens: int, virtual: int) -> Callable[[int], dict[str, Any]]:
        """Returns what gives a layer's number the arguments that depend on places; by default, there are none.

        Args:
            h_btd: states before the first layer that is run.
            positions: [b or 1, t] their places.
            tokens: of the longest row; rows may lie end to end.
            virtual: keys that stand in front of each row's own.
        """
        return lambda _: {}

    def call(self, number: int, h_btd: Tensor, options: dict[str, Any], attachment: Attachment) -> Any:
        """Returns what a layer makes of the states before it.

        Args:
            number: of the layer.
            h_btd: the states.
            options: arguments of `attend`, and what `by_place` gives.
            attachment: modules that act on the running pass.
        """
        return self.stack[number](h_btd, **options)

    def run(
        self,
        h_btd: Tensor,
        real: Tensor,
        positions: Tensor,
        layers: range,
        attachment: Attachment | None = None,
        ragged: Ragged | None = None,
        prefixes: Prefixes | None = None,
        instead: Attend | None = None,
    ) -> Tensor:
        """Returns the hidden states after these layers and, behind the last, after the final norm.

        Args:
            h_btd: states before the first of them.
            real: [b, t] which tokens are real; of rows padded to the longest, even if they lie end to end.
            positions: [b or 1, t] places of the states.
            layers: which layers.
            attachment: modules that act on the pass.
            ragged: given when all rows lie end to end in one.
            prefixes: virtual keys and values.
            instead: does the attention, where rows lie end to end.
        """
        options = {"attention_mask": real[:, None, None, :], "ragged": ragged, "instead": instead}
        by_place = self.by_place(h_btd, positions, real.shape[1], 0 if prefixes is None else prefixes.count)
        attachment = attachment or Attachment(None)
        for number in layers:
            prefix = None if prefixes is None else prefixes.get(number)
            h_btd = states_of(self.call(number, h_btd, options | {"prefix": prefix} | by_place(number), attachment))
        return cast(Tensor, self.norm(h_btd)) if self.norm is not None and layers.stop == self.layers else h_btd

    def read(self, lists: Sequence[Sequence[int]], layers: range) -> tuple[Tensor, Tensor]:
        """Returns [b, t, d] the states of texts' tokens after these first layers, and which are real [b, t]."""
        ids, real = padded(lists, 0, self.device)
        positions = torch.arange(ids.shape[1], device=self.device)[None]
        return self.run(self.enter(self.words(ids), positions), real, positions, layers), real

    def _labels(self, prompt: Prompt) -> Tensor:
        """Returns [labels, d] unit vectors of the label statements.

        Raises:
            PeftuError: two of them are the same to this base.
        """
        statements = [Text(f"{prompt.instruction} {word}") for word in prompt.words]
        lists, cuts = self.tokens(statements, prompt.max_tokens)
        if len(set(map(tuple, lists))) < len(lists):
            mend = "give the task other words" + (", or a shorter instruction" if cuts.judged else "")
            raise PeftuError(f"label words: two labels have the same tokens — {mend}")
        return self.embed(statements, prompt.max_tokens)

    @torch.no_grad()
    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress) -> Context:
        """Returns the hidden states at the region's floor (token ids where that is the embedding)."""
        floor = region.floor(self.layers)
        lists, (cut, beside_cut) = self.tokens(texts, prompt.max_tokens, prompt.about)
        longest = max(map(len, lists))
        state: dict[str, Any] = {"labels": self._labels(prompt)}
        if floor == 0:
            state["ids"] = Packed.of([torch.tensor(tokens, device=self.device) for tokens in lists])
            return Context(region, prompt, (), len(texts), cut, 0, longest, state, longest, beside_cut)
        at_floor: list[Tensor] = [torch.empty(0)] * len(lists)
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            h_btd, _ = self.read([lists[i] for i in batch], range(floor))
            for row, item in enumerate(batch):
                at_floor[item] = h_btd[row, : len(lists[item])].clone()
            progress(len(batch))
        state["floors"] = Packed.of(at_floor)
        tokens = sum(map(len, lists))
        return Context(region, prompt, (), len(texts), cut, tokens, longest, state, longest, beside_cut)

    def hidden(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] sentence vectors, pooled over the text's own tokens, times the root of the width.

        Their entries are about one; virtual tokens are read by the text's own, not pooled.
        """
        floor = context.region.floor(self.layers)
        virtual, prefixes = virtual_tokens(self.config, context, len(rows), attachment, self.first_place)
        packed: Packed = context.state["ids" if floor == 0 else "floors"]
        places, _ = packed.places(rows)
        text_lengths = lengths = packed.lengths[rows]
        h_btd = packed.values[places] if floor else self.words(packed.values[places])
        if virtual is not None:
            h_btd, lengths = virtual.in_front_of(h_btd, lengths)
        positions = torch.arange(h_btd.shape[1], device=self.device).expand(len(rows), -1)
        positions = positions if prefixes is None else positions + prefixes.per_row[:, None]
        h_btd = h_btd if floor else self.enter(h_btd, positions)
        ragged = Ragged(lengths, self.device)
        flat = Flat(lengths, attachment.groups, self.device, causal=False)
        attachment.tokens = flat.tokens
        h_btd, positions = ragged.unpad(h_btd)[None], ragged.unpad(positions)[None]
        padding = prefixes is not None or self.by_content
        way: dict[str, Any] = {"ragged": ragged, "prefixes": prefixes} if padding else {"instead": flat.attend}
        h_td = self.run(h_btd, ragged.real, positions, range(floor, self.layers), attachment, **way)[0]
        if virtual is not None:
            h_td = h_td[ranges(lengths.cumsum(0) - text_lengths, text_lengths, self.device)[0]]
        return unit(pooled(self.sentence.pool, h_td, text_lengths)) * math.sqrt(self.width)

    @torch.no_grad()
    def primer(self, prompt: Prompt, region: Region) -> dict[str, Tensor]:
        """Returns the states of instruction and label words at the region's floor."""
        lists, _ = self.tokens([Text(f"{prompt.instruction} {' '.join(prompt.words)}")], prompt.max_tokens)
        if (floor := region.floor(self.layers)) == 0:
            return {"tokens": self.words(torch.tensor(lists[0], device=self.device))}
        return {"tokens": self.read(lists, range(floor))[0][0]}

    def scores(self, context: Context, hidden: Sequence[Tensor]) -> Tensor:
        """Returns [b, labels] scaled cosines with the label statements; log-softmaxed where labels exclude."""
        labels_cd: Tensor = context.state["labels"]
        raw_bc = COSINE_SCALE * (unit(hidden[0]) @ labels_cd.T)
        if context.prompt.exclusive:
            return raw_bc.log_softmax(-1)
        return raw_bc - raw_bc.mean(-1, keepdim=True)

    @torch.no_grad()
    def embed(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> Tensor:
        """Returns [texts, d] unit sentence vectors, as sentence-transformers gives them, scaled to length one."""
        lists, _ = self.tokens(texts, max_tokens, about)
        out = torch.empty(len(lists), self.width, device=self.device)
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            h_btd, real = self.read([lists[i] for i in batch], range(self.layers))
            lengths = torch.tensor([len(lists[i]) for i in batch])
            out[batch] = unit(pooled(self.sentence.pool, h_btd[real], lengths))
        return out
