"""Encoder-decoders (T5, Flan-T5): the text is encoded, the answer is the decoder's first token.

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
from peftu.base.attention import KeysValues, causal_mask
from peftu.base.families.family import (
    Context,
    Family,
    Kind,
    ModelType,
    Progress,
    Span,
    end_tokens,
    label_logits,
    paired,
    unit,
    virtual_sites,
    virtual_tokens,
)
from peftu.base.packed import Packed, length_batches, padded
from peftu.base.pooling import SentenceConfig
from peftu.base.prompt import About, Prompt, label_trie, trie_scores
from peftu.base.reader import Reader
from peftu.base.region import Region
from peftu.base.sites import Attachment, Site, linear_sites
from peftu.base.virtual import Prefixes, VirtualStates
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError

PREFILL_TOKENS = 4096


class EncoderDecoder(Family):
    """A T5-like model."""

    kind: ClassVar[Kind] = "encoder_decoder"
    types: ClassVar[Mapping[str, ModelType]] = {"mt5": ModelType(), "t5": ModelType()}
    spans: ClassVar[tuple[Span, ...]] = ("all", "answer")  # its decoder reads no marker
    default_region: ClassVar[RegionSpec] = RegionSpec(depth=None, span="answer")
    auto: ClassVar[Any] = AutoModelForSeq2SeqLM
    writers: ClassVar[tuple[str, ...]] = ("ConditionalGeneration", "LMHead")

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.reader, self.ends = Reader(tokenizer, continues=False), end_tokens(model, tokenizer)
        hub = cast(Any, model)
        if not hasattr(getattr(hub, "encoder", None), "block"):
            raise PeftuError(f"base: {type(model).__name__} is not laid out like T5 — use another")
        self.encoder, self.decoder, self.head = hub.encoder, hub.decoder, hub.lm_head
        self.layers = max(len(self.encoder.block), len(self.decoder.block))
        self.width = int(hub.config.d_model)
        self.start = int(hub.config.decoder_start_token_id)
        self.head_scale = self.width**-0.5 if getattr(hub.config, "scale_decoder_outputs", False) else 1.0

    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the linear maps inside the region, virtual tokens, and the head over the decoder's last state.

        Virtual states enter in front of the text (span 'all') or of the answer; virtual keys and values stand in the
        decoder's attention over its own tokens.
        For span 'answer' the decoder's maps of the encoded text (cross-attention keys and values) lie outside.
        """
        sites: list[Site] = []
        below, above = (
            range(region.floor(len(stack.block)), len(stack.block)) for stack in (self.encoder, self.decoder)
        )
        if region.span == "all":
            for number in below:
                sites += linear_sites(self.model, self.encoder.block[number], number, "encoder")
        for number in above:
            sites += linear_sites(self.model, self.decoder.block[number], number, "decoder")
        if region.answering:
            sites = [site for site in sites if not site.name.endswith(("EncDecAttention.k", "EncDecAttention.v"))]
            sites += virtual_sites(self.config, self.width, "decoder", above.start, "decoder", above)
        else:
            sites += virtual_sites(self.config, self.width, "encoder", below.start, "decoder", above)
        return [*sites, Site("head", "head", "head", self.layers, "decoder", self.width, labels)]

    # --- running ------------------------------------------------------------------------------------------------

    def encode(self, h_btd: Tensor, real: Tensor, layers: range, final: bool = True) -> Tensor:
        """Returns the encoder's states after these layers and, with ``final``, after its last norm."""
        bias = _bias(self.encoder, h_btd.shape[1])
        for number in layers:
            h_btd = self.encoder.block[number](
                h_btd, attention_mask=real[:, None, None, :], position_bias=bias, memory=None
            )[0]
        return cast(Tensor, self.encoder.final_layer_norm(h_btd)) if final else h_btd

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
            h_bsd: states before the first of them.
            layers: which layers.
            real: [b, t] which encoded tokens are real.
            encoded: the encoder's states; anything where the cache has their keys and values.
            cache: from `cache`, or None.
            past: how many tokens are in the cache already, virtual ones left out.
            prefixes: the virtual keys and values that the cache starts with.
        """
        span, virtual = h_bsd.shape[1], 0 if prefixes is None else prefixes.count
        bias = _bias(self.decoder, span, virtual + past)
        mask = causal_mask(past + span, h_bsd.device)[..., past:, :]
        for number in layers:
            prefix = None if prefixes is None else prefixes.get(number)
            h_bsd = self.decoder.block[number](
                h_bsd,
                attention_mask=mask if prefix is None else prefix.masked(mask),
                position_bias=bias[..., virtual:] if prefix is None else bias,
                encoder_hidden_states=encoded,
                encoder_attention_mask=real[:, None, None, :].expand(-1, -1, span, -1),
                past_key_values=cache,
            )[0]
        return h_bsd

    def cache(self, prefixes: Prefixes | None = None, cross: DynamicCache | None = None) -> EncoderDecoderCache:
        """Returns a cache for the decoder, which starts with the virtual keys and values, if there are any.

        Args:
            prefixes: of the layers that have them.
            cross: keys and values of the encoded text, where they were computed before.
        """
        dtype = self.head.weight.dtype
        self_attention, none = DynamicCache(), torch.empty(0, device=self.device, dtype=dtype)
        for layer in range(len(self.decoder.block) if prefixes is not None else 0):
            prefix = None if prefixes is None else prefixes.get(layer)
            heads = (none, none) if prefix is None else prefix.in_heads(self.config.num_heads, dtype)
            self_attention.update(*heads, layer)
        return EncoderDecoderCache(self_attention, DynamicCache() if cross is None else cross)

    def cross(self, encoded: Tensor, layer: int) -> KeysValues:
        """Returns a decoder layer's keys and values of the encoded text, each [b, t, heads, head width]."""
        attention = self.decoder.block[layer].layer[1].EncDecAttention
        shape = (*encoded.shape[:-1], attention.n_heads, attention.key_value_proj_dim)
        return attention.k(encoded).view(shape), attention.v(encoded).view(shape)

    def _span(self, tail: Sequence[int], rows: int) -> Tensor:
        ids = torch.tensor([[self.start, *tail]], device=self.device)
        return cast(Tensor, self.decoder.embed_tokens(ids)).expand(rows, -1, -1)

    @torch.no_grad()
    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress) -> Context:
        """Returns what the region needs of each text.

        For span 'answer': cross-attention keys and values in the region, and the decoder's state at its floor. For
        span 'all': the encoder's state at its floor (token ids where that is the embedding).
        """
        reading = self.reader.read(prompt, texts)
        lists, (cut, beside_cut) = reading.lists, reading.cuts
        nodes = label_trie(self.reader.alone(prompt.words), self.reader.end(prompt, self.ends))
        floor = region.floor(len(self.encoder.block))
        state: dict[Any, Any] = {"tails": [list(node.prefix) for node in nodes]}
        span = max(map(len, lists)) if region.span == "all" else max(1 + len(node.prefix) for node in nodes)
        context = Context(region, prompt, nodes, len(texts), cut, 0, span, state, beside_cut=beside_cut)
        if region.span == "all" and floor == 0:
            state["ids"] = Packed.of([torch.tensor(tokens, device=self.device) for tokens in lists])
            return context
        context.tokens = sum(map(len, lists))
        gathered: dict[Any, list[Tensor]] = {}
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            ids, real = padded([lists[i] for i in batch], 0, self.device)
            h_btd = self.encoder.embed_tokens(ids)
            if region.span == "all":
                made = {"floors": self.encode(h_btd, real, range(floor), final=False)}
            else:
                made = self._answer_state(self.encode(h_btd, real, range(len(self.encoder.block))), real, context)
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
        layers, made = len(self.decoder.block), {}
        floor = context.region.floor(layers)
        for layer in range(floor, layers):
            made["k", layer], made["v", layer] = self.cross(encoded, layer)
        for number, tail in enumerate(context.state["tails"]):
            h_bsd = self._span(tail, len(encoded))
            made["span", number] = self.decode(h_bsd, range(floor), real, encoded, None)
        return made

    def hidden(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the decoder's last state after the final norm."""
        state, layers = context.state, len(self.decoder.block)
        virtual, prefixes = virtual_tokens(self.config, context, len(rows), attachment)
        if context.region.answering:
            h_bsd = state["span", node][rows]
            h_bsd = h_bsd if virtual is None else virtual.in_front(h_bsd)
            h_bsd = self.decode_span(state, rows, h_bsd, context.region.floor(layers), prefixes)
            last = h_bsd[:, -1] if virtual is None else virtual.last(h_bsd)
        else:
            encoded, real = self.encoded_texts(context, rows, virtual)
            h_bsd = self._span(state["tails"][node], len(rows))
            cache = None if prefixes is None else self.cache(prefixes)
            last = self.decode(h_bsd, range(layers), real, encoded, cache, prefixes=prefixes)[:, -1]
        return cast(Tensor, self.decoder.final_layer_norm(last))

    def decode_span(
        self, state: dict[Any, Any], texts: Tensor, h_bsd: Tensor, floor: int, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Returns the decoder's states in the region, given those at its floor and each row's text number."""
        layers = len(self.decoder.block)
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
        floor = context.region.floor(len(self.encoder.block))
        packed: Packed = context.state["ids" if floor == 0 else "floors"]
        places, real = packed.places(texts)
        h_btd = packed.values[places]
        h_btd = self.encoder.embed_tokens(h_btd) if floor == 0 else h_btd
        if virtual is not None:
            h_btd = virtual.in_front(h_btd)
            ends = packed.lengths[texts] + virtual.per_row
            real = torch.arange(h_btd.shape[1], device=texts.device) < ends[:, None]
        return self.encode(h_btd, real, range(floor, len(self.encoder.block))), real

    @torch.no_grad()
    def primer(self, prompt: Prompt, region: Region) -> dict[str, Tensor]:
        """Returns the states of instruction and label words, and the decoder's keys and values in the region."""
        text = Text(f"{prompt.instruction} {' '.join(prompt.words)}")
        ids = torch.tensor(self.reader.bodies([text], prompt.max_tokens).lists, device=self.device)
        real, below, layers = torch.ones_like(ids, dtype=torch.bool), len(self.encoder.block), len(self.decoder.block)
        encoded = self.encode(self.encoder.embed_tokens(ids), real, range(below))
        cache, floor = self.cache(), region.floor(layers)
        read = self.decoder.embed_tokens(ids)
        h_bsd = self.decode(read, range(floor), real, encoded, cache)
        self.decode(h_bsd, range(floor, layers), real, encoded, cache)
        if region.span == "all":
            floor_below = region.floor(below)
            h_bsd = self.encode(self.encoder.embed_tokens(ids), real, range(floor_below), final=False)
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
        lists = self.reader.bodies(texts, max_tokens, about).lists
        out = torch.empty(len(lists), self.width, device=self.device)
        for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
            ids, real = padded([lists[i] for i in batch], 0, self.device)
            h_btd = self.encode(self.encoder.embed_tokens(ids), real, range(len(self.encoder.block)))
            out[batch] = (h_btd.float() * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return unit(out)


def _bias(stack: Any, tokens: int, past: int = 0) -> Tensor:
    """Returns [1, h, tokens, past + tokens] the stack's relative position bias, which its first layer holds for all."""
    attention = stack.block[0].layer[0].SelfAttention
    return cast(Tensor, attention.compute_bias(tokens, past + tokens, past_seen_tokens=past))
