"""How decoders read and write answers: ``head + text + tail + answer``, the answer span being tail and answer.

Shape letters: n answers, b rows, t text tokens, s own tokens (tail and answer, without the last), d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from peftu.base.answers import Answer, AnswerTokens
from peftu.base.attention import Earlier, KeysValues, Memory
from peftu.base.families.decoder import PREFILL_TOKENS, Decoder, behind
from peftu.base.families.family import Context, Progress, check_reach, virtual_tokens
from peftu.base.flat import Flat
from peftu.base.packed import Packed, Ragged, length_batches, padded, ranges, sent
from peftu.base.places import NOWHERE, Places
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.sites import Attachment
from peftu.base.virtual import Prefixes, VirtualStates, virtual_prefixes, virtual_states
from peftu.data.problem import Text


@dataclass
class DecoderDraft:
    """Answers being written by a decoder, all rows in one cache.

    Attributes:
        cache: layer -> keys and values [b, kv heads, columns, head width].
        places: [b, columns] places of the tokens that the cache's columns hold, in the region's layers.
        places_below: the same in the layers below, where there are no virtual tokens.
        position: [b] place of the next token, virtual ones not counted.
        shift: [b] by how much they move it, in the region's layers.
        front: [b] the place behind virtual keys; None before tokens have been read with modules.
        reach: the longest sequence that may come, where angles depend on it.
        floor: the region's first layer.
        room: tokens that may still come.
        filled: columns that earlier reads filled.
        entered: whether virtual tokens, if there are any, have been read.
    """

    cache: dict[int, KeysValues]
    places: Tensor
    places_below: Tensor
    position: Tensor
    shift: Tensor
    floor: int
    room: int
    reach: int = 0
    front: Tensor | None = None
    filled: int = 0
    entered: bool = False

    def keep(self, rows: Tensor) -> None:
        """Makes these rows, in this order, the draft's rows; one may stand twice."""
        self.cache = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.cache.items()}
        self.places, self.places_below = self.places[rows], self.places_below[rows]
        self.front = None if self.front is None else self.front[rows]
        self.position, self.shift = self.position[rows], self.shift[rows]

    @property
    def columns(self) -> int:
        """Returns how many columns there are, filled or not."""
        return self.places.shape[1]

    def widen(self, columns: int) -> None:
        """Makes room for so many columns in all."""
        more = columns - self.columns
        if more > 0:
            wider = (pad(places, (0, more), value=NOWHERE) for places in (self.places, self.places_below))
            self.places, self.places_below = wider
            self.cache = {
                layer: (pad(keys, (0, 0, 0, more)), pad(values, (0, 0, 0, more)))
                for layer, (keys, values) in self.cache.items()
            }

    def hold(self, made: dict[int, KeysValues], places: Tensor, own: Tensor) -> None:
        """Writes what layers made of tokens behind the filled columns, and the places [b, s] of those that are any."""
        end = self.filled + own.shape[1]
        places[:, self.filled : end] = own
        for layer, pair in made.items():
            if layer not in self.cache:
                shape = (*pair[0].shape[:2], self.columns, pair[0].shape[3])
                self.cache[layer] = (pair[0].new_zeros(shape), pair[1].new_zeros(shape))
            for stored, new in zip(self.cache[layer], pair, strict=True):
                stored[:, :, self.filled : end] = new


class DecoderWriter:
    """Answers through a decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.vocabulary = int(cast(Any, decoder.head).weight.shape[0])

    # --- given answers ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(
        self, prompt: Prompt, texts: Sequence[Text], answers: Sequence[Answer], region: Region, progress: Progress
    ) -> Context:
        """Returns what the region needs of each answer.

        For an answer span: each text's keys and values in the region's layers, and the state of tail and answer at its
        floor. For span 'all': the states of text, tail and answer at the floor. At floor 0, token ids are the state.
        """
        decoder, device = self.decoder, self.decoder.device
        parts = decoder.parts(prompt, texts, region)
        head_ids, bodies = parts.head, parts.bodies
        words = decoder.reader.answers(prompt, [answer.words for answer in answers])
        target = AnswerTokens.of(words, decoder.reader.end(prompt, decoder.ends), prompt.answer_tokens)
        answer_ids = [
            parts.tails[answer.text] + tokens[:-1] for answer, tokens in zip(answers, target.lists, strict=True)
        ]
        before = len(head_ids) + max(map(len, bodies))
        check_reach(decoder.config, before + max(map(len, answer_ids)))
        head_floor, head_kv = decoder.head_pass(head_ids, region.floor(decoder.layers), reach := decoder.reach(prompt))
        state: dict[str, Any] = {
            "head": len(head_ids),
            "reach": reach,
            "head_kv": head_kv,
            "text": torch.tensor([answer.text for answer in answers]),
            "target": target.packed(device),
        }
        reading = _Reading(decoder, region, head_kv, bodies, answer_ids, [answer.text for answer in answers], reach)
        reading.run(progress)
        state["own"] = Packed.of(reading.answer_floors)
        if region.answering:
            state["lengths"] = Packed.of([torch.empty(len(body), 0, device=device) for body in bodies])
            state["kv"] = {
                layer: (torch.cat([k for k, _ in items]), torch.cat([v for _, v in items]))
                for layer, items in reading.kv.items()
            }
        else:
            start = head_floor[0] if region.floor(decoder.layers) else torch.tensor(head_ids, device=device)
            state["texts"] = Packed.of(reading.text_floors)
            # One pool of head, texts and answers, so that a row is three ranges of it.
            state["pool"] = torch.cat([start, state["texts"].values, state["own"].values])
        span = max(map(len, answer_ids)) + (before if region.span == "all" else 0)
        tokens = len(head_ids) + sum(map(len, bodies)) + sum(map(len, answer_ids))
        longest = before + max(map(len, answer_ids))
        cut, beside_cut = parts.cuts
        return Context(region, prompt, (), len(answers), cut, tokens, span, state, longest, beside_cut, target.cut)

    def hidden(self, context: Context, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [tokens, d] the states after the final norm that predict the answers' tokens, row after row."""
        virtual, prefixes = virtual_tokens(self.decoder.config, context, len(rows), attachment)
        read = self._read_answers if context.region.answering else self._read_all
        out, lengths = read(context, rows, virtual, prefixes, attachment)
        answer_lengths = context.state["target"].lengths[rows]
        predicts, _ = ranges(lengths.cumsum(0) - answer_lengths, answer_lengths, self.decoder.device)
        return cast(Tensor, self.decoder.norm(out[predicts]))

    def _read_answers(
        self,
        context: Context,
        rows: Tensor,
        virtual: VirtualStates | None,
        prefixes: Prefixes | None,
        attachment: Attachment,
    ) -> tuple[Tensor, Tensor]:
        """Returns [tokens, d] the last layer's states of tail and answer, the text's keys and values before; lengths.

        The lengths [b] are the rows' tokens, virtual ones too; the processor has them.
        """
        state, packed = context.state, cast(Packed, context.state["lengths"])
        texts = state["text"][rows]
        places, _ = state["own"].places(rows)
        text_places, text_real = packed.places(texts)
        earlier = Earlier(state["head_kv"], state["kv"], text_places)

        start, lengths = sent(state["head"] + packed.lengths[texts], places.device), state["own"].lengths[rows]
        h_bsd, lengths, positions = self._entered(state["own"].values[places], lengths, start, context, virtual)
        own = Places(positions, torch.cat([behind(state["head"], text_real), positions], 1), state["reach"])
        return self._run_flat(h_bsd, lengths, own, context, prefixes, attachment, Memory(earlier)), lengths

    def _read_all(
        self,
        context: Context,
        rows: Tensor,
        virtual: VirtualStates | None,
        prefixes: Prefixes | None,
        attachment: Attachment,
    ) -> tuple[Tensor, Tensor]:
        """Returns [tokens, d] the last layer's states of head, text, tail and answer, and the rows' lengths [b]."""
        state, head = context.state, context.state["head"]
        texts: Packed = state["texts"]
        answers: Packed = state["own"]
        text = state["text"][rows]
        ends = head + texts.lengths[text]
        lengths = ends + answers.lengths[rows]
        # The pool begins with the head.
        in_answer = head + len(texts.values) + answers.offsets[rows] - ends
        about = torch.stack([ends, lengths, texts.offsets[text], in_answer, torch.zeros_like(lengths)])
        text_end, end, in_text, in_answer, nowhere = sent(about, self.decoder.device)[..., None]
        step = torch.arange(int(lengths.max()), device=end.device)[None]
        step = torch.minimum(step, end - 1)  # behind a row's end: its last token
        behind_head = step + torch.where(step < text_end, in_text, in_answer)
        places = torch.where(step < head, step, behind_head)
        start = nowhere[:, 0] if prefixes is None else prefixes.per_row
        h_btd, lengths, positions = self._entered(state["pool"][places], lengths, start, context, virtual)
        own = Places(positions, positions, state["reach"])
        return self._run_flat(h_btd, lengths, own, context, prefixes, attachment), lengths

    def _entered(
        self, stored: Tensor, lengths: Tensor, start: Tensor, context: Context, virtual: VirtualStates | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the states at the floor [b, s, d] with virtual ones in front, lengths [b] and positions [b, s]."""
        at_bottom = context.region.floor(self.decoder.layers) == 0
        h_bsd = self.decoder.embedding(stored) if at_bottom else stored
        if virtual is not None:
            h_bsd, lengths = virtual.in_front_of(h_bsd, lengths)
        positions = start[:, None] + torch.arange(h_bsd.shape[1], device=start.device)
        return self.decoder.place(h_bsd, positions) if at_bottom else h_bsd, lengths, positions

    def _run_flat(
        self,
        h_bsd: Tensor,
        lengths: Tensor,
        places: Places,
        context: Context,
        prefixes: Prefixes | None,
        attachment: Attachment,
        memory: Memory | None = None,
    ) -> Tensor:
        """Returns [tokens, d] the states after the region's layers, the rows' real tokens end to end."""
        layers = range(context.region.floor(self.decoder.layers), self.decoder.layers)
        ragged = Ragged(lengths, h_bsd.device)
        h_td = ragged.unpad(h_bsd)[None]
        if memory is None and prefixes is None:
            flat = Flat(lengths, attachment.groups, h_bsd.device)
            attachment.tokens = flat.tokens
            end_to_end = replace(places, queries=ragged.unpad(places.queries)[None])
            return self.decoder.run(h_td, end_to_end, layers, instead=flat.attend)[0]
        attachment.spread(lengths, h_bsd.device)
        return self.decoder.run(h_td, places, layers, memory, ragged, prefixes)[0]

    # --- new answers --------------------------------------------------------------------------------------------

    def begin(
        self, prompt: Prompt, texts: Sequence[Text], most: int, region: Region, attachment: Attachment
    ) -> tuple[DecoderDraft, Tensor]:
        """Returns a draft that has read head and text of each row, and the tails [b, s], which are to be read first."""
        decoder = self.decoder
        parts = decoder.parts(prompt, texts, region)
        ids, real = padded([parts.head + body for body in parts.bodies], 0, decoder.device)
        none, zero = ids.new_zeros(len(ids), 0), ids.new_zeros(len(ids))
        floor, reach = region.floor(decoder.layers), decoder.reach(prompt)
        draft = DecoderDraft({}, none, none, zero, zero, floor, len(parts.tails[0]) + most, reach)
        self._read(draft, ids, real, attachment)
        return draft, torch.tensor(parts.tails, device=ids.device)

    def next(self, draft: DecoderDraft, tokens: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the states that predict the token after these [b, s]."""
        draft.room -= tokens.shape[1]
        real = torch.ones_like(tokens, dtype=torch.bool)
        return cast(Tensor, self.decoder.norm(self._read(draft, tokens, real, attachment)))

    def _read(self, draft: DecoderDraft, ids: Tensor, real: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the last real token's state after the last layer, having read these tokens into the draft.

        Virtual states enter once, in front of the first tokens that are read with modules; virtual keys and values
        are there at every read.
        """
        decoder, floor, rows = self.decoder, draft.floor, len(ids)
        binding = attachment.binding
        virtual = None if draft.entered else virtual_states(binding, rows)
        prefixes = virtual_prefixes(binding, rows)
        if binding is not None and not draft.entered:
            draft.entered = True
            if prefixes is not None and not draft.cache:  # in front of the text, so that all of it moves on
                draft.shift = draft.shift + prefixes.per_row
        width = ids.shape[1] + (0 if virtual is None else virtual.count)
        draft.widen(draft.filled + width + draft.room)
        check_reach(decoder.config, draft.columns)
        positions = draft.position[:, None] + torch.arange(ids.shape[1], device=ids.device)
        h_bsd = decoder.embedding(ids)
        if floor:
            h_bsd = decoder.place(h_bsd, positions)
            h_bsd = self._run(draft, h_bsd, positions, range(floor), draft.places_below, real)
        lengths = real.sum(1)
        if virtual is not None:
            h_bsd = virtual.in_front(h_bsd)
            lengths = lengths + virtual.per_row
        step = torch.arange(h_bsd.shape[1], device=ids.device)
        positions = (draft.position + draft.shift)[:, None] + step
        if not floor:
            h_bsd = decoder.place(h_bsd, positions)
        if binding is not None and draft.front is None:
            draft.front = positions[:, 0]
        reads = step < lengths[:, None]
        h_bsd = self._run(draft, h_bsd, positions, range(floor, decoder.layers), draft.places, reads, prefixes)
        draft.position, draft.filled = draft.position + real.sum(1), draft.filled + width
        if virtual is not None:
            draft.shift = draft.shift + virtual.per_row
        return h_bsd[torch.arange(rows, device=ids.device), lengths - 1]

    def _run(
        self,
        draft: DecoderDraft,
        h_bsd: Tensor,
        positions: Tensor,
        layers: range,
        held: Tensor,
        real: Tensor,
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Returns the states after these layers, whose keys and values the draft then holds.

        Args:
            draft: the draft.
            h_bsd: states before these layers.
            positions: [b, s] their places.
            layers: which layers.
            held: [b, columns] places of the tokens that the draft holds there.
            real: [b, s] which are tokens.
            prefixes: virtual keys and values.
        """
        filled = draft.filled
        places = Places(positions, torch.cat([held[:, :filled], positions], 1), draft.reach, draft.front)

        def before(layer: int) -> list[KeysValues]:
            keys, values = draft.cache[layer]
            return [(keys[:, :, :filled], values[:, :, :filled])]

        memory = Memory(before if filled else None, record=layers)
        h_bsd = self.decoder.run(h_bsd, places, layers, memory, prefixes=prefixes)
        draft.hold(memory.made, held, positions.masked_fill(~real, NOWHERE))
        return h_bsd


class _Reading:
    """One pass over texts and their answers, below the region and, for an answer span, over the texts inside it.

    Attributes:
        text_floors: of each text, its tokens' states at the floor [t, d], or ids at floor 0 (span 'all').
        answer_floors: of each answer, the states of tail and answer at the floor [s, d], or ids at floor 0.
        kv: layer -> keys and values [t, kv heads, head width] of each text (not for span 'all').
    """

    def __init__(
        self,
        decoder: Decoder,
        region: Region,
        head_kv: dict[int, KeysValues],
        bodies: list[list[int]],
        answer_ids: list[list[int]],
        text_of: list[int],
        reach: int,
    ) -> None:
        self.decoder, self.region, self.head_kv = decoder, region, head_kv
        self.bodies, self.answer_ids, self.text_of, self.reach = bodies, answer_ids, text_of, reach
        self.floor = region.floor(decoder.layers)
        self.text_floors = [torch.tensor(body, device=decoder.device, dtype=torch.long) for body in bodies]
        self.answer_floors = [torch.tensor(tokens, device=decoder.device) for tokens in answer_ids]
        layers = range(self.floor, decoder.layers) if region.answering else range(0)
        nothing = torch.empty(0)
        self.kv: dict[int, list[KeysValues]] = {layer: [(nothing, nothing)] * len(bodies) for layer in layers}

    def run(self, progress: Progress) -> None:
        """Reads everything, a batch of texts of like length at a time."""
        answers: dict[int, list[int]] = {}
        for answer, text in enumerate(self.text_of):
            answers.setdefault(text, []).append(answer)
        if not self.floor and not self.kv:
            return
        for batch in length_batches([len(body) for body in self.bodies], PREFILL_TOKENS):
            made = self._texts(batch)
            members = [answer for text in batch for answer in answers.get(text, [])]
            if self.floor:
                for some in length_batches([len(self.answer_ids[answer]) for answer in members], PREFILL_TOKENS):
                    self._answers([members[i] for i in some], batch, made)
            progress(len(batch))

    def _texts(self, batch: list[int]) -> dict[int, KeysValues]:
        """Runs a batch of texts; returns layer -> keys and values [b, kv heads, t, head width]."""
        decoder, floor, head = self.decoder, self.floor, self._head
        ids, _ = padded([self.bodies[text] for text in batch], 0, decoder.device)
        places = Places.line(ids.shape[1], ids.device, head, self.reach)
        memory = Memory(lambda layer: [self.head_kv[layer]], record=range(decoder.layers))
        h_btd = decoder.run(decoder.embed_tokens(ids, places.queries), places, range(floor), memory)
        if self.region.span == "all":
            for row, text in enumerate(batch):
                self.text_floors[text] = h_btd[row, : len(self.bodies[text])].clone()
            return memory.made
        decoder.run(h_btd, places, range(floor, decoder.layers), memory)
        for layer, items in self.kv.items():
            keys, values = (x.transpose(1, 2) for x in memory.made[layer])
            for row, text in enumerate(batch):
                length = len(self.bodies[text])
                items[text] = (keys[row, :length].clone(), values[row, :length].clone())
        return memory.made

    def _answers(self, members: list[int], batch: list[int], made: dict[int, KeysValues]) -> None:
        """Runs tail and answer of some answers to the floor, after the texts of the batch."""
        decoder = self.decoder
        place = {text: row for row, text in enumerate(batch)}
        rows = torch.tensor([place[self.text_of[answer]] for answer in members], device=decoder.device)
        lengths = torch.tensor([len(self.bodies[text]) for text in batch], device=decoder.device)[rows]
        ids, _ = padded([self.answer_ids[answer] for answer in members], 0, decoder.device)
        positions = (self._head + lengths)[:, None] + torch.arange(ids.shape[1], device=ids.device)
        real = torch.arange(int(made[0][0].shape[2]), device=ids.device) < lengths[:, None]

        def before(layer: int) -> list[KeysValues]:
            keys, values = (text[rows] for text in made[layer])
            return [self.head_kv[layer], (keys, values)]

        places = Places(positions, torch.cat([behind(self._head, real), positions], 1), self.reach)
        h_bsd = decoder.run(decoder.embed_tokens(ids, positions), places, range(self.floor), Memory(before))
        for row, answer in enumerate(members):
            self.answer_floors[answer] = h_bsd[row, : len(self.answer_ids[answer])].clone()

    @property
    def _head(self) -> int:
        return self.head_kv[0][0].shape[2]
