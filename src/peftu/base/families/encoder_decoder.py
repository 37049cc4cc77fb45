"""Encoder-decoders (T5, Flan-T5, BART, Pegasus): the text is encoded, the answer is what the decoder says first.

Span 'answer' is the decoder: the encoder, and the decoder's keys and values of the encoded text, are computed once a
text. Span 'all' lets modules act in the encoder's top layers too.
Shape letters: n texts, b rows, t text tokens, s decoder tokens, d width, h heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from peftu.base.answers import Writer
from peftu.base.attention import causal_mask
from peftu.base.families.family import (
    Context,
    Family,
    Kind,
    ModelType,
    Progress,
    Span,
    check_reach,
    end_tokens,
    forced_first,
    label_logits,
    paired,
    states_of,
    unit,
    virtual_sites,
    virtual_tokens,
)
from peftu.base.families.stacks import BartStack, Stack, T5Stack
from peftu.base.packed import Packed, length_batches, padded, sent
from peftu.base.pooling import SentenceConfig
from peftu.base.prompt import About, Prompt, label_trie, trie_scores
from peftu.base.reader import Reader
from peftu.base.region import Region
from peftu.base.sites import Attachment, Site, linear_sites
from peftu.base.virtual import Prefixes, VirtualStates
from peftu.config import RegionSpec
from peftu.data.problem import Text

PREFILL_TOKENS = 4096


class EncoderDecoder(Family):
    """A T5-like model.

    Attributes:
        encoder: the stack that reads the text.
        decoder: the stack that says the answer.
        opening: the tokens that the decoder reads before an answer: its start, and the one that it must say first
            where the model's `generate` forces it to, such as a language's.
    """

    kind: ClassVar[Kind] = "encoder_decoder"
    types: ClassVar[Mapping[str, ModelType]] = {"mt5": ModelType(), "t5": ModelType()}
    stack: ClassVar[type[Stack]] = T5Stack
    spans: ClassVar[tuple[Span, ...]] = ("all", "answer")  # its decoder reads no marker
    default_region: ClassVar[RegionSpec] = RegionSpec(depth=None, span="answer")
    auto: ClassVar[Any] = AutoModelForSeq2SeqLM
    writers: ClassVar[tuple[str, ...]] = ("ConditionalGeneration", "LMHead")
    shared: ClassVar[frozenset[str]] = frozenset({"tails"})

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.reader, self.ends = Reader(tokenizer, continues=False), end_tokens(model, tokenizer)
        hub = cast(Any, model)
        self.encoder, self.decoder = self.stack(hub.get_encoder()), self.stack(hub.get_decoder())
        self.head = with_bias(hub.get_output_embeddings(), getattr(hub, "final_logits_bias", None))
        self.layers = max(len(self.encoder.layers), len(self.decoder.layers))
        self.width = int(hub.config.d_model)
        self.opening = [int(hub.config.decoder_start_token_id), *map(int, forced_first(model).values())]
        self.head_scale = self.width**-0.5 if getattr(hub.config, "scale_decoder_outputs", False) else 1.0

    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the linear maps inside the region, virtual tokens, and the head over the decoder's last state.

        Virtual states enter in front of the text (span 'all') or of the answer; virtual keys and values stand in the
        decoder's attention over its own tokens.
        For span 'answer' the decoder's maps of the encoded text (cross-attention keys and values) lie outside.
        """
        sites: list[Site] = []
        below, above = (
            range(region.floor(len(stack.layers)), len(stack.layers)) for stack in (self.encoder, self.decoder)
        )
        if region.span == "all":
            for number in below:
                sites += linear_sites(self.model, self.encoder.layers[number], number, "encoder")
        for number in above:
            sites += linear_sites(self.model, self.decoder.layers[number], number, "decoder")
        if region.answering:
            sites = [site for site in sites if not (site.cross and site.role in ("k", "v"))]
            sites += virtual_sites(self.config, self.width, "decoder", above.start, "decoder", above)
        else:
            sites += virtual_sites(self.config, self.width, "encoder", below.start, "decoder", above)
        return [*sites, Site("head", "head", "head", self.layers, "decoder", self.width, labels)]

    # --- running ------------------------------------------------------------------------------------------------

    def encode(self, h_btd: Tensor, real: Tensor, layers: range, final: bool = True) -> Tensor:
        """Returns the encoder's states after these layers and, with ``final``, after its last norm.

        Args:
            h_btd: states before the first of them; before the very first, the tokens' embeddings.
            real: [b, t] which tokens are real.
            layers: which layers; none leaves embeddings as they are.
            final: give what the decoder looks at.
        """
        if layers and not layers.start:
            h_btd = self.encoder.enter(h_btd, torch.arange(h_btd.shape[1], device=h_btd.device)[None])
        given = self.encoder.by_place(h_btd.shape[1])
        for number in layers:
            h_btd = states_of(self.encoder.layers[number](h_btd, attention_mask=real[:, None, None, :], **given))
        return self.encoder.leave(h_btd) if final else h_btd

    def decode(
        self,
        h_bsd: Tensor,
        layers: range,
        real: Tensor,
        encoded: Tensor,
        cache: EncoderDecoderCache | None,
        past: int = 0,
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Returns the decoder's states after these layers.

        Args:
            h_bsd: states before the first of them; before the very first, the tokens' embeddings.
            layers: which layers; none leaves embeddings as they are.
            real: [b, t] which encoded tokens are real.
            encoded: the encoder's states; anything where the cache has their keys and values.
            cache: from `cache`, or None.
            past: how many tokens are in the cache already, virtual ones left out.
            prefixes: the virtual keys and values that the cache starts with.
        """
        span = h_bsd.shape[1]
        if layers and not layers.start:
            positions = torch.arange(past, past + span, device=h_bsd.device)[None]
            positions = positions if prefixes is None else positions + prefixes.per_row[:, None]
            h_bsd = self.decoder.enter(h_bsd, positions)
        mask = causal_mask(past + span, h_bsd.device)[..., past:, :]
        given = {
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": real[:, None, None, :].expand(-1, -1, span, -1),
            "past_key_values": cache,
        }
        plain = self.decoder.by_place(span, past)
        behind = plain if prefixes is None else self.decoder.by_place(span, prefixes.count + past)
        for number in layers:
            prefix = None if prefixes is None else prefixes.get(number)
            seen, by_place = (mask, plain) if prefix is None else (prefix.masked(mask), behind)
            h_bsd = states_of(self.decoder.layers[number](h_bsd, attention_mask=seen, **by_place, **given))
        return h_bsd

    def cache(self, prefixes: Prefixes | None = None, cross: DynamicCache | None = None) -> EncoderDecoderCache:
        """Returns a cache for the decoder, which starts with the virtual keys and values, if there are any.

        Args:
            prefixes: of the layers that have them.
            cross: keys and values of the encoded text, where they were computed before.
        """
        dtype = self.head.weight.dtype
        self_attention, none = DynamicCache(), torch.empty(0, device=self.device, dtype=dtype)
        for layer in range(len(self.decoder.layers) if prefixes is not None else 0):
            prefix = None if prefixes is None else prefixes.get(layer)
            heads = (none, none) if prefix is None else prefix.in_heads(self.decoder.heads, dtype)
            self_attention.update(*heads, layer)
        return EncoderDecoderCache(self_attention, DynamicCache() if cross is None else cross)

    def _span(self, tail: Sequence[int], rows: int) -> Tensor:
        ids = sent(torch.tensor([[*self.opening, *tail]]), self.device)
        return self.decoder.words(ids).expand(rows, -1, -1)

    @torch.no_grad()
    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress) -> Context:
        """Returns what the region needs of each text.

        For span 'answer': cross-attention keys and values in the region, and the decoder's state at its floor. For
        span 'all': the encoder's state at its floor (token ids where that is the embedding).
        """
        reading = self.reader.read(prompt, texts)
        lists, (cut, beside_cut) = reading.lists, reading.cuts
        nodes = label_trie(self.reader.alone(prompt.words), self.reader.end(prompt, self.ends))
        floor = region.floor(len(self.encoder.layers))
        state: dict[Any, Any] = {"tails": [list(node.prefix) for node in nodes]}
        longest, spoken = max(map(len, lists)), len(self.opening) + max(len(node.prefix) for node in nodes)
        check_reach(self.config, max(longest, spoken))
        span = longest if region.span == "all" else spoken
        context = Context(region, prompt, nodes, len(texts), cut, 0, span, state, span, beside_cut)
        if region.span == "all" and floor == 0:
            state["ids"] = Packed.of([torch.tensor(tokens, device=self.device) for tokens in lists])
            return context
        context.tokens = sum(map(len, lists))
        gathered: dict[Any, list[Tensor]] = {}
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            ids, real = padded([lists[i] for i in batch], 0, self.device)
            h_btd = self.encoder.words(ids)
            if region.span == "all":
                made = {"floors": self.encode(h_btd, real, range(floor), final=False)}
            else:
                made = self._answer_state(self.encode(h_btd, real, range(len(self.encoder.layers))), real, context)
            for key, value in made.items():
                items = gathered.setdefault(key, [torch.empty(0)] * len(lists))
                for row, item in enumerate(batch):
                    whole = isinstance(key, tuple) and key[0] == "span"
                    items[item] = value[row].clone() if whole else value[row, : len(lists[item])].clone()
            progress(len(batch))
        for key, items in gathered.items():
            state[key] = torch.stack(items) if isinstance(key, tuple) and key[0] == "span" else Packed.of(items)
        return context

    def _answer_state(self, encoded: Tensor, real: Tensor, context: Context) -> dict[Any, Tensor]:
        """Returns ('k'|'v', layer) -> [b, t, h, width] and ('span', node) -> [b, s, d] at the decoder's floor."""
        layers, made = len(self.decoder.layers), {}
        floor = context.region.floor(layers)
        for layer in range(floor, layers):
            made["k", layer], made["v", layer] = self.decoder.cross(encoded, layer)
        for number, tail in enumerate(context.state["tails"]):
            h_bsd = self._span(tail, len(encoded))
            made["span", number] = self.decode(h_bsd, range(floor), real, encoded, None)
        return made

    def hidden(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the decoder's last state after the final norm."""
        state, layers = context.state, len(self.decoder.layers)
        virtual, prefixes = virtual_tokens(self.config, context, len(rows), attachment)
        if context.region.answering:
            h_bsd = state["span", node][sent(rows, self.device)]
            h_bsd = h_bsd if virtual is None else virtual.in_front(h_bsd)
            h_bsd = self.decode_span(state, rows, h_bsd, context.region.floor(layers), prefixes)
            last = h_bsd[:, -1] if virtual is None else virtual.last(h_bsd)
        else:
            encoded, real = self.encoded_texts(context, rows, virtual)
            h_bsd = self._span(state["tails"][node], len(rows))
            cache = None if prefixes is None else self.cache(prefixes)
            last = self.decode(h_bsd, range(layers), real, encoded, cache, prefixes=prefixes)[:, -1]
        return self.decoder.leave(last)

    def decode_span(
        self, state: dict[Any, Any], texts: Tensor, h_bsd: Tensor, floor: int, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Returns the decoder's states in the region, given those at its floor and each row's text number."""
        layers = len(self.decoder.layers)
        places, real = cast(Packed, state["k", floor]).places(texts)
        cross = DynamicCache()
        for layer in range(layers):
            keys, values = (
                state[kind, layer].values[places].transpose(1, 2) if layer >= floor else torch.empty(0) for kind in "kv"
            )
            cross.update(keys, values, layer)
        # The encoded text is given for its presence only: its keys and values come from the cache.
        return self.decode(h_bsd, range(floor, layers), real, real, self.cache(prefixes, cross), prefixes=prefixes)

    def encoded_texts(
        self, context: Context, texts: Tensor, virtual: VirtualStates | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the encoded texts [b, t, d] of a context of span 'all', and which tokens are real."""
        floor = context.region.floor(len(self.encoder.layers))
        packed: Packed = context.state["ids" if floor == 0 else "floors"]
        places, real = packed.places(texts)
        h_btd = packed.values[places]
        h_btd = self.encoder.words(h_btd) if floor == 0 else h_btd
        if virtual is not None:
            h_btd = virtual.in_front(h_btd)
            ends = sent(packed.lengths[texts], self.device) + virtual.per_row
            real = torch.arange(h_btd.shape[1], device=self.device) < ends[:, None]
        return self.encode(h_btd, real, range(floor, len(self.encoder.layers))), real

    @torch.no_grad()
    def primer(self, prompt: Prompt, region: Region) -> dict[str, Tensor]:
        """Returns the states of instruction and label words, and the decoder's keys and values in the region."""
        text = Text(f"{prompt.instruction} {' '.join(prompt.words)}")
        ids = torch.tensor(self.reader.bodies([text], self.readable(prompt.max_tokens)).lists, device=self.device)
        real, below, layers = torch.ones_like(ids, dtype=torch.bool), len(self.encoder.layers), len(self.decoder.layers)
        encoded = self.encode(self.encoder.words(ids), real, range(below))
        cache, floor = self.cache(), region.floor(layers)
        read = self.decoder.words(ids)
        h_bsd = self.decode(read, range(floor), real, encoded, cache)
        self.decode(h_bsd, range(floor, layers), real, encoded, cache)
        if region.span == "all":
            floor_below = region.floor(below)
            h_bsd = self.encode(self.encoder.words(ids), real, range(floor_below), final=False)
        kept = cache.self_attention_cache.layers
        return {"tokens": h_bsd[0], **{f"kv.{n}": paired(kept[n].keys, kept[n].values) for n in range(floor, layers)}}

    def writer(self) -> Writer:
        """Returns how the family reads and writes answers in free text."""
        from peftu.base.families.encoder_decoder_writer import EncoderDecoderWriter

        return EncoderDecoderWriter(self)

    def scores(self, context: Context, hidden: Sequence[Tensor]) -> Tensor:
        """Returns [b, labels] scores; only the branches' rows of the output matrix are read."""
        pairs = zip(context.nodes, hidden, strict=True)
        logits = [label_logits(self.head, h_bd * self.head_scale, node) for node, h_bd in pairs]
        return trie_scores(context.nodes, logits, context.prompt.exclusive)

    @torch.no_grad()
    def embed(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> Tensor:
        """Returns the mean of the encoder's states over a text's tokens, at unit length."""
        lists = self.reader.bodies(texts, self.readable(max_tokens), about).lists
        out = torch.empty(len(lists), self.width, device=self.device)
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            ids, real = padded([lists[i] for i in batch], 0, self.device)
            h_btd = self.encode(self.encoder.words(ids), real, range(len(self.encoder.layers)))
            out[batch] = (h_btd.float() * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return unit(out)


class Bart(EncoderDecoder):
    """A BART-like model."""

    types: ClassVar[Mapping[str, ModelType]] = {"bart": ModelType(), "mbart": ModelType(), "pegasus": ModelType()}
    stack: ClassVar[type[Stack]] = BartStack


def with_bias(head: nn.Module, bias: Tensor | None) -> nn.Module:
    """Returns an output matrix [vocabulary, d] with this bias [1, vocabulary] beside it; the matrix is not copied."""
    if bias is None:
        return head
    weight = cast(nn.Parameter, head.weight)
    both = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    both.weight, both.bias = weight, nn.Parameter(bias[0], requires_grad=False)
    return both
