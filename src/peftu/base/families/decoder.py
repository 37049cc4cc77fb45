"""Decoders (Llama, SmolLM, Qwen, Mistral, GPT-2, …): the answer is the next token after the prompt.

A prompt is cut into tokens whole, then seen as ``head + text + tail``: the head (instruction) is the same for every
text and its keys and values are computed once; the tail (end of turn, assistant marker) is the answer span, its last
token the span ``last``.

Shape letters: n texts, b rows, t text tokens, s span tokens, d width.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from peftu.base.answers import Writer
from peftu.base.attention import Attend, Earlier, KeysMade, KeysValues, Memory, only_keys
from peftu.base.families.family import (
    Context,
    Family,
    Kind,
    ModelType,
    Progress,
    Span,
    check_reach,
    end_tokens,
    first_attribute,
    label_logits,
    paired,
    states_of,
    unit,
    virtual_sites,
    virtual_tokens,
)
from peftu.base.finish import Finish
from peftu.base.flat import Flat
from peftu.base.manner import Manner
from peftu.base.packed import Packed, Ragged, length_batches, padded, sent
from peftu.base.places import NOWHERE, Places
from peftu.base.pooling import SentenceConfig
from peftu.base.prompt import About, Prompt, label_trie, trie_scores
from peftu.base.reader import Cuts, Reader
from peftu.base.region import Region
from peftu.base.sites import Attachment, Site, linear_sites
from peftu.base.virtual import Prefixes, VirtualStates
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError

PREFILL_TOKENS = 4096  # padded tokens a batch: large enough for full matmul rate, small enough for the cache


@dataclass(frozen=True)
class Parts:
    """Prompts as tokens, in the parts that a region asks for.

    Attributes:
        head: what all begin with.
        bodies: of each text, what lies between head and region.
        tails: of each text, what lies in the region; all of one length.
        words: of each label, its word behind the tail.
        cuts: how many texts were cut.
    """

    head: list[int]
    bodies: list[list[int]]
    tails: list[list[int]]
    words: list[list[int]]
    cuts: Cuts


class Decoder(Family):
    """A causal language model seen as head, text, tail."""

    kind: ClassVar[Kind] = "decoder"
    types: ClassVar[Mapping[str, ModelType]] = {
        "gemma": ModelType(),
        "gemma2": ModelType(),
        "gemma3_text": ModelType(),
        "gpt2": ModelType(),
        "gpt_neox": ModelType(),
        "gpt_oss": ModelType(quantize=False),
        "granite": ModelType(),
        "llama": ModelType(),
        "ministral": ModelType(),
        "mistral": ModelType(),
        "olmo2": ModelType(),
        "phi3": ModelType(),
        "qwen2": ModelType(),
        "qwen3": ModelType(),
        "qwen3_moe": ModelType(quantize=False),
        "smollm3": ModelType(),
        "starcoder2": ModelType(),
    }
    spans: ClassVar[tuple[Span, ...]] = ("all", "answer", "last")
    default_region: ClassVar[RegionSpec] = RegionSpec(depth=6, span="last")
    auto: ClassVar[Any] = AutoModelForCausalLM
    writers: ClassVar[tuple[str, ...]] = ("CausalLM", "LMHead")
    shared: ClassVar[frozenset[str]] = frozenset({"head_floor", "head_kv", "head", "reach"})

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.reader, self.ends = Reader(tokenizer, continues=True), end_tokens(model, tokenizer)
        hub, inner = cast(Any, model), cast(Any, model).base_model
        stack, norm = first_attribute(inner, "layers", "h"), first_attribute(inner, "norm", "ln_f", "final_layer_norm")
        embedding, head = hub.get_input_embeddings(), hub.get_output_embeddings()
        if not isinstance(stack, nn.ModuleList) or norm is None or embedding is None or head is None:
            raise PeftuError(f"base: {type(model).__name__} is not laid out like a decoder peftu knows — use another")
        self.stack, self.norm, self.embedding, self.head = stack, norm, embedding, head
        self.positions, self.rotary = first_attribute(inner, "wpe"), first_attribute(inner, "rotary_emb")
        self.layers, self.width = len(stack), int(head.weight.shape[1])
        self.finish, self.kinds = Finish.of(self.config), layer_kinds(self.config, self.layers)
        # Gemma 3's layers have rotary angles by their kind.
        rotates = () if self.rotary is None else inspect.signature(self.rotary.forward).parameters
        self.angles_by_kind, self.stretches = "layer_type" in rotates, stretches(self.config)

    # --- layout -------------------------------------------------------------------------------------------------

    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the linear maps of the region's layers, virtual tokens, and the head over the last hidden state."""
        layers = range(region.floor(self.layers), self.layers)
        sites = [site for number in layers for site in linear_sites(self.model, self.stack[number], number, "decoder")]
        sites += virtual_sites(self.config, self.width, "decoder", layers.start, "decoder", layers)
        return [*sites, Site("head", "head", "head", self.layers, "decoder", self.width, labels)]

    def parts(self, prompt: Prompt, texts: Sequence[Text], region: Region) -> Parts:
        """Returns the prompts of these texts as tokens; with span 'all', the tails are still the answer span's."""
        reading, ending = self.reader.read(prompt, texts), self.reader.ending(prompt)
        stop = -ending.dropped or None
        lists = [tokens[:stop] for tokens in reading.lists]
        span, head = len(self.inside(ending.tail, region)), reading.head
        head_ids = lists[0][:head] if lists else []
        bodies, tails = [tokens[head:-span] for tokens in lists], [tokens[-span:] for tokens in lists]
        return Parts(head_ids, bodies, tails, ending.words, reading.cuts)

    @staticmethod
    def inside(tail: list[int], region: Region) -> list[int]:
        """Returns the tokens of a tail that lie in a region."""
        return tail[-1:] if region.span == "last" else tail

    def invocation(self, prompt: Prompt, region: Region) -> list[int]:
        """Returns the tokens between text and answer that lie in a region."""
        return self.inside(self.reader.ending(prompt).tail, region)

    def answer_tokens(self, prompt: Prompt) -> int:
        """Returns how many tokens the longest answer has, which stands behind the prompt."""
        return max(map(len, self.reader.ending(prompt).words), default=prompt.answer_tokens)

    def writer(self) -> Writer:
        """Returns how the family reads and writes answers in free text."""
        from peftu.base.families.decoder_writer import DecoderWriter

        return DecoderWriter(self)

    # --- running ------------------------------------------------------------------------------------------------

    def embed_tokens(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Returns [b, t, d] what enters the first layer."""
        return self.place(self.embedding(ids), positions)

    def place(self, h_btd: Tensor, positions: Tensor) -> Tensor:
        """Returns what token embeddings become before the first layer, at positions where a model learns those."""
        scale = getattr(self.config, "embedding_multiplier", 1.0)
        h_btd = h_btd if scale == 1.0 else h_btd * scale
        return h_btd if self.positions is None else h_btd + self.positions(positions)

    def reach(self, prompt: Prompt) -> int:
        """Returns the longest sequence that a prompt allows, where rotary angles depend on that; else 0.

        It is not the longest text's, so that a text is read alone as among others.
        """
        return self.taken(prompt) + prompt.max_tokens if self.stretches else 0

    def rotated(self, h_btd: Tensor, positions: Tensor, reach: int) -> dict[str, Any]:
        """Returns the rotary angles at these positions, by kind of layer; none where a model has none."""
        if self.rotary is None:
            return {}
        if reach:  # the largest position decides which of two sets the angles are of
            positions = torch.cat([positions, positions.new_full((len(positions), 1), reach - 1)], 1)
        kinds = set(self.kinds)
        if self.angles_by_kind:
            angles = {kind: self.rotary(h_btd, positions, kind) for kind in kinds}
        else:
            angles = dict.fromkeys(kinds, self.rotary(h_btd, positions))
        return {kind: (cos[:, :-1], sin[:, :-1]) for kind, (cos, sin) in angles.items()} if reach else angles

    def run(
        self,
        h_btd: Tensor,
        places: Places,
        layers: range,
        memory: Memory | None = None,
        ragged: Ragged | None = None,
        prefixes: Prefixes | None = None,
        instead: Attend | None = None,
    ) -> Tensor:
        """Returns the hidden states after these layers.

        Args:
            h_btd: hidden states before the first of them.
            places: of the tokens and of the keys that they may look at, virtual ones left out.
            layers: which layers.
            memory: earlier keys and values, and what to keep of the new ones.
            ragged: given when all rows lie end to end in one; their places do not.
            prefixes: virtual keys and values.
            instead: does the attention, mask and memory in.
        """
        positions = places.queries if ragged is None else ragged.unpad(places.queries)[None]
        angles = self.rotated(h_btd, positions, places.reach)
        for number in layers:
            prefix = None if prefixes is None else prefixes.get(number)
            told = {"memory": memory, "ragged": ragged, "prefix": prefix, "instead": instead}
            angle = angles.get(self.kinds[number])
            h_btd = self.layer(number, h_btd, places, told, position_ids=positions, position_embeddings=angle)
        return h_btd

    def layer(self, number: int, h_btd: Tensor, places: Places, told: dict[str, Any], **usual: Any) -> Tensor:
        """Returns the hidden states after a layer.

        Args:
            number: of the layer.
            h_btd: the hidden states before it.
            places: stand for the mask.
            told: what `attend` is told.
            usual: what the hub's own model passes.
        """
        return states_of(self.stack[number](h_btd, attention_mask=places, **told, **usual))

    def head_pass(self, head_ids: list[int], floor: int, reach: int) -> tuple[Tensor, dict[int, KeysValues]]:
        """Returns the head's hidden states at the floor [1, h, d] and its keys and values in every layer."""
        ids = torch.tensor([head_ids], device=self.device)
        places, memory = Places.line(len(head_ids), self.device, reach=reach), Memory(record=range(self.layers))
        at_floor = self.run(self.embed_tokens(ids, places.queries), places, range(floor), memory)
        self.run(at_floor, places, range(floor, self.layers), memory)
        return at_floor, memory.made

    @torch.no_grad()
    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress) -> Context:
        """Returns what the region needs of each text.

        For an answer span or its last token: the text's keys and values in the region's layers (and those of the rest
        of the marker), and the tail's state at its floor. For span 'all': the head's state at the floor, then text and
        tail's of every text (token ids where the floor is the embedding).
        """
        parts = self.parts(prompt, texts, region)
        head_ids, bodies = parts.head, parts.bodies
        nodes = label_trie(parts.words, self.reader.end(prompt, self.ends))
        tails = [[[*tail, *node.prefix] for tail in parts.tails] for node in nodes]
        span = len(parts.tails[0]) + max(len(node.prefix) for node in nodes)
        longest = len(head_ids) + max(map(len, bodies)) + span
        check_reach(self.config, longest)
        floor = region.floor(self.layers)
        head_floor, head_kv = self.head_pass(head_ids, floor, reach := self.reach(prompt))
        state: dict[str, Any] = {"head_floor": head_floor, "head_kv": head_kv, "head": len(head_ids), "reach": reach}
        state["tails"] = [torch.tensor(ids, device=self.device) for ids in tails]
        tokens = len(head_ids)
        if region.span == "all" and floor == 0:
            prompts = [[head_ids, *map(list.__add__, bodies, ids)] for ids in tails]
            state["ids"] = [Packed.of([torch.tensor(ids, device=self.device) for ids in lists]) for lists in prompts]
        else:
            for number, ids in enumerate(tails):
                tokens += self._fill(state, bodies, ids, region, progress, first=number == 0)
        span += len(head_ids) + max(map(len, bodies)) if region.span == "all" else 0
        cut, beside_cut = parts.cuts
        return Context(region, prompt, nodes, len(texts), cut, tokens, span, state, longest, beside_cut)

    def _fill(
        self,
        state: dict[str, Any],
        bodies: list[list[int]],
        tails: list[list[int]],
        region: Region,
        progress: Progress,
        first: bool,
    ) -> int:
        """Runs text + tail of every item once and adds what the region needs to ``state``; returns tokens run."""
        floor, head, tokens = region.floor(self.layers), state["head"], 0
        at_floor: list[Tensor] = [torch.empty(0)] * len(bodies)
        layers = range(floor, self.layers) if region.answering and first else range(0)
        kept: dict[int, list[KeysValues]] = {n: [(torch.empty(0), torch.empty(0))] * len(bodies) for n in layers}
        read = list(map(list.__add__, bodies, tails))
        for batch in length_batches([len(ids) for ids in read], PREFILL_TOKENS):
            ids, _ = padded([read[i] for i in batch], 0, self.device)
            tokens += sum(len(read[i]) for i in batch)
            places = Places.line(ids.shape[1], self.device, head, state["reach"])
            memory = Memory(lambda layer: [state["head_kv"][layer]], record=range(floor, self.layers))
            h_btd = self.run(self.embed_tokens(ids, places.queries), places, range(floor), memory)
            for row, item in enumerate(batch):
                start = 0 if region.span == "all" else len(bodies[item])
                at_floor[item] = h_btd[row, start : len(read[item])].clone()
            if kept:
                self.run(h_btd, places, range(floor, self.layers), memory)
                for layer, items in kept.items():
                    keys, values = (x.transpose(1, 2) for x in memory.made[layer])
                    for row, item in enumerate(batch):
                        length = len(bodies[item])
                        items[item] = (keys[row, :length].clone(), values[row, :length].clone())
            progress(len(batch))
        if region.span == "all":
            state.setdefault("floors", []).append(Packed.of([state["head_floor"][0], *at_floor]))
        else:
            state.setdefault("span_floors", []).append(torch.stack(at_floor))
        if kept:
            state["lengths"] = Packed.of([torch.empty(len(body), 0, device=self.device) for body in bodies])
            state["kv"] = {
                layer: (torch.cat([k for k, _ in items]), torch.cat([v for _, v in items]))
                for layer, items in kept.items()
            }
        return tokens

    def hidden(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the last span token's state after the final norm."""
        if context.region.span == "all":
            return cast(Tensor, self.norm(self._last_all(context, node, rows, attachment)))
        return cast(Tensor, self.norm(self._last_answer(context, node, rows, attachment)))

    def _last_answer(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        state, floor, top = context.state, context.region.floor(self.layers), self.layers - 1
        virtual, prefixes = virtual_tokens(self.config, context, len(rows), attachment)
        own_rows = sent(rows, self.device)
        h_bsd = state["span_floors"][node][own_rows]
        span = h_bsd.shape[1] + (virtual.count if virtual else 0)
        packed: Packed = state["lengths"]
        places, real = packed.places(rows)
        positions = sent((state["head"] + packed.lengths[rows])[:, None] + torch.arange(span), self.device)
        if virtual is not None and floor == 0:
            h_bsd = self.embedding(state["tails"][node][own_rows])
            h_bsd = self.place(virtual.in_front(h_bsd), positions)
        elif virtual is not None:
            h_bsd = virtual.in_front(h_bsd)
        keys = torch.cat([behind(state["head"], real), positions], 1)
        own, earlier = Places(positions, keys, state["reach"]), Earlier(state["head_kv"], state["kv"], places)
        if span == 1:
            return self.run(h_bsd, own, range(floor, self.layers), Memory(earlier), prefixes=prefixes)[:, 0]
        h_bsd = self.run(h_bsd, own, range(floor, top), Memory(earlier), prefixes=prefixes)
        memory = Memory(earlier, keys_values=self._top_keys(h_bsd, own))
        h_bd, place = (x[:, -1] if virtual is None else virtual.last(x) for x in (h_bsd, positions))
        last = replace(own, queries=place[:, None])
        return self.run(h_bd[:, None], last, range(top, self.layers), memory, prefixes=prefixes)[:, 0]

    def _last_all(self, context: Context, node: int, rows: Tensor, attachment: Attachment) -> Tensor:
        state, floor, top = context.state, context.region.floor(self.layers), self.layers - 1
        packed: Packed = state["ids" if floor == 0 else "floors"][node]
        virtual, prefixes = virtual_tokens(self.config, context, len(rows), attachment)
        if virtual is not None or prefixes is not None:
            return self._last_behind(packed, context, rows, virtual, prefixes, attachment)
        flat = Flat(packed.lengths[rows + 1], attachment.groups, self.device, state["head"])
        source, positions = (x[None] for x in flat.spread(packed.offsets[rows + 1]))
        h_btd, places = packed.values[source], Places(positions, reach=state["reach"])
        if floor == 0:
            h_btd = self.embed_tokens(h_btd, positions)
        attachment.tokens = flat.tokens
        h_btd = self.run(h_btd, places, range(floor, top), instead=flat.attend)
        keys, values = self._top_keys(h_btd, places)
        attachment.tokens = None  # from here on one token a row

        def attend(query: Tensor, key: Tensor, value: Tensor, manner: Manner) -> Tensor:
            return flat.attend_last(query, keys, values, manner)

        last = replace(places, queries=positions[:, flat.last])
        return self.run(h_btd[:, flat.last], last, range(top, self.layers), instead=attend)[0]

    def _last_behind(
        self,
        packed: Packed,
        context: Context,
        rows: Tensor,
        virtual: VirtualStates | None,
        prefixes: Prefixes | None,
        attachment: Attachment,
    ) -> Tensor:
        """Returns what `_last_all` does, behind virtual tokens, which rows may have or not."""
        floor, (places, _) = context.region.floor(self.layers), packed.places(rows + 1)
        head = packed.values[: packed.offsets[1]]
        whole = torch.cat([head.expand(len(rows), *head.shape), packed.values[places]], 1)
        h_btd = self.embedding(whole) if floor == 0 else whole
        lengths = len(head) + packed.lengths[rows + 1]
        if virtual is not None:
            h_btd, lengths = virtual.in_front_of(h_btd, lengths)
        positions = torch.arange(h_btd.shape[1], device=self.device)[None].expand(len(rows), -1)
        if prefixes is not None:
            positions = positions + prefixes.per_row[:, None]
        if floor == 0:
            h_btd = self.place(h_btd, positions)
        ragged = Ragged(lengths, self.device)
        attachment.spread(lengths, self.device)
        whole_rows = Places(positions, positions, context.state["reach"])
        flat, layers = ragged.unpad(h_btd)[None], range(floor, self.layers)
        out = self.run(flat, whole_rows, layers, ragged=ragged, prefixes=prefixes)
        return out[0, sent(lengths.cumsum(0) - 1, self.device)]

    def _top_keys(self, h_btd: Tensor, places: Places) -> KeysValues:
        """Returns the top layer's keys and values; the rest of it is run where it is read only."""
        try:
            self.run(h_btd, places, range(self.layers - 1, self.layers), instead=only_keys)
        except KeysMade as stopped:
            return stopped.made
        raise AssertionError("the layer did not call our attention")

    @torch.no_grad()
    def primer(self, prompt: Prompt, region: Region) -> dict[str, Tensor]:
        """Returns the states of instruction and label words at the floor, and their keys and values in the region."""
        words = self.reader.ending(prompt).words
        ids = torch.tensor([[*self.reader.opening(prompt), *(token for word in words for token in word)]])
        ids = ids.to(self.device)
        places, floor = Places.line(ids.shape[1], ids.device, reach=self.reach(prompt)), region.floor(self.layers)
        at_floor = self.run(self.embed_tokens(ids, places.queries), places, range(floor))
        self.run(at_floor, places, range(floor, self.layers), memory := Memory(record=range(floor, self.layers)))
        states = at_floor if floor else self.embedding(ids)  # places are added when the tokens enter
        return {"tokens": states[0], **{f"kv.{layer}": paired(*made) for layer, made in memory.made.items()}}

    def scores(self, context: Context, hidden: Sequence[Tensor]) -> Tensor:
        """Returns [b, labels] scores; only the branches' rows of the output matrix are read."""
        return trie_scores(
            context.nodes,
            [self.finish(label_logits(self.head, h, node)) for node, h in zip(context.nodes, hidden, strict=True)],
            context.prompt.exclusive,
        )

    @torch.no_grad()
    def embed(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> Tensor:
        """Returns the mean of the last hidden states over a text's tokens, at unit length."""
        bodies = self.reader.bodies(texts, self.readable(max_tokens), about).lists
        bodies = [body or [min(self.ends, default=0)] for body in bodies]  # an empty text needs a vector too
        out = torch.empty(len(bodies), self.width, device=self.device)
        for batch in length_batches([len(body) for body in bodies], PREFILL_TOKENS):
            ids, real = padded([bodies[i] for i in batch], 0, self.device)
            places = Places.line(ids.shape[1], self.device, reach=max_tokens if self.stretches else 0)
            h_btd = self.norm(self.run(self.embed_tokens(ids, places.queries), places, range(self.layers)))
            out[batch] = (h_btd.float() * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return unit(out)


def behind(head: int, real: Tensor) -> Tensor:
    """Returns [b, h + t] the places of a head and of the texts behind it, of whose tokens these [b, t] are real."""
    step = torch.arange(head + real.shape[1], device=real.device).expand(len(real), -1)
    return torch.cat([step[:, :head], step[:, head:].masked_fill(~real, NOWHERE)], 1)


def layer_kinds(config: Any, layers: int) -> list[str]:
    """Returns the kind of each layer, as transformers names them.

    Raises:
        PeftuError: the model attends in a way that is not known.
    """
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * layers)
    strange = sorted({*kinds} - {"full_attention", "sliding_attention"})
    strange += ["attention to later tokens"] if getattr(config, "use_bidirectional_attention", False) else []
    strange += ["ALiBi"] if getattr(config, "alibi", False) else []
    if strange:
        raise PeftuError(f"base: a {config.model_type} with {strange[0]} is not known to peftu — use another")
    return kinds


def stretches(config: Any) -> bool:
    """Returns whether rotary angles are of one set or another by the length of what is read (LongRoPE)."""
    return "longrope" in str(getattr(config, "rope_parameters", None))
