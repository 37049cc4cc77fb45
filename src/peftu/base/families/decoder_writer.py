"""How decoders read and write answers: ``head + text + tail + answer``, the answer span being tail and answer.

Shape letters: n answers, b rows, t text tokens, s own tokens (tail and answer, without the last), d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from peftu.base.answers import Answer, AnswerTokens
from peftu.base.attention import KeysValues, Memory, causal_mask
from peftu.base.families.decoder import PREFILL_TOKENS, Decoder
from peftu.base.families.family import Context, Progress, check_reach, token_lists
from peftu.base.flat import Flat
from peftu.base.packed import Packed, Ragged, length_batches, padded
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.sites import Attachment
from peftu.data.problem import Text


@dataclass
class DecoderDraft:
    """Answers being written by a decoder, all rows in one cache.

    Attributes:
        cache: layer -> keys and values [b, kv heads, room, head width].
        seen: [b, room] True at the cache's columns that hold a token of the row.
        filled: columns in use.
        position: [b] place of the next token.
    """

    cache: dict[int, KeysValues]
    seen: Tensor
    filled: int
    position: Tensor

    def keep(self, rows: Tensor) -> None:
        """Makes these rows, in this order, the draft's rows; one may stand twice."""
        self.cache = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.cache.items()}
        self.seen, self.position = self.seen[rows], self.position[rows]


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

        For span 'answer': each text's keys and values in the region's layers, and the state of tail and answer at its
        floor. For span 'all': the states of text, tail and answer at the floor. At floor 0, token ids are the state.
        """
        decoder, device = self.decoder, self.decoder.device
        head_ids, tail_ids, words = decoder.frame(replace(prompt, words=tuple(answer.words for answer in answers)))
        said = AnswerTokens.of(words, decoder.tokenizer.eos_token_id, prompt.answer_tokens)
        bodies, cut = token_lists(decoder.tokenizer, [prompt.body(text) for text in texts], prompt.max_tokens)
        own = [tail_ids + tokens[:-1] for tokens in said.lists]
        before = len(head_ids) + max(map(len, bodies))
        check_reach(cast(Any, decoder.model).config, before + max(map(len, own)))
        head_floor, head_kv = decoder.head_pass(head_ids, region.floor(decoder.layers))
        state: dict[str, Any] = {
            "head": len(head_ids),
            "head_kv": head_kv,
            "text": torch.tensor([answer.text for answer in answers], device=device),
            "target": said.packed(device),
        }
        reading = _Reading(decoder, region, head_kv, bodies, own, [answer.text for answer in answers])
        reading.run(progress)
        state["own"] = Packed.of(reading.own_floors)
        if region.span == "answer":
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
        span = max(map(len, own)) + (before if region.span == "all" else 0)
        tokens = len(head_ids) + sum(map(len, bodies)) + sum(map(len, own))
        return Context(region, prompt, (), len(answers), cut, tokens, span, state, answers_cut=said.cut)

    def hidden(self, context: Context, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [tokens, d] the states after the final norm that predict the answers' tokens, row after row."""
        state = context.state
        own: Packed = state["own"]
        if context.region.span == "answer":
            lengths = own.lengths[rows]
            out = self._read_answers(context, rows, lengths, attachment)
        else:
            lengths = state["head"] + state["texts"].lengths[state["text"][rows]] + own.lengths[rows]
            out = self._read_all(context, rows, lengths, attachment)
        said = state["target"].lengths[rows]
        step = torch.arange(int(lengths.max()), device=rows.device)
        predicts = step >= (lengths - said)[:, None]
        return cast(Tensor, self.decoder.norm(out[predicts[step < lengths[:, None]]]))

    def _read_answers(self, context: Context, rows: Tensor, lengths: Tensor, attachment: Attachment) -> Tensor:
        """Returns [tokens, d] the last layer's states of tail and answer, with the text's keys and values before."""
        decoder, state, floor = self.decoder, context.state, context.region.floor(self.decoder.layers)
        texts = state["text"][rows]
        places, real = state["own"].places(rows)
        packed: Packed = state["lengths"]
        text_places, text_real = packed.places(texts)
        span = places.shape[1]
        positions = (state["head"] + packed.lengths[texts])[:, None] + torch.arange(span, device=rows.device)
        h_td = self._entered(state["own"].values[places[real]], positions[real], floor)
        attachment.spread(lengths)

        def before(layer: int) -> KeysValues:
            pairs = zip(state["head_kv"][layer], state["kv"][layer], strict=True)
            keys, values = (
                torch.cat([head.expand(len(rows), -1, -1, -1), text[text_places].transpose(1, 2)], 2)
                for head, text in pairs
            )
            return keys, values

        mask = _after_text(span, state["head"], text_real)
        layers = range(floor, decoder.layers)
        return decoder.run(h_td[None], positions[real][None], layers, mask, Memory(before), Ragged(lengths))[0]

    def _read_all(self, context: Context, rows: Tensor, lengths: Tensor, attachment: Attachment) -> Tensor:
        """Returns [tokens, d] the last layer's states of head, text, tail and answer."""
        decoder, state, floor = self.decoder, context.state, context.region.floor(self.decoder.layers)
        text, own = (
            packed.offsets[place] for packed, place in ((state["texts"], state["text"][rows]), (state["own"], rows))
        )
        head, text_end = state["head"], state["head"] + state["texts"].lengths[state["text"][rows]]
        step = torch.arange(int(lengths.max()), device=rows.device)[None].expand(len(rows), -1)
        real = step < lengths[:, None]
        in_text = head + text[:, None] + step - head
        in_own = head + len(state["texts"].values) + own[:, None] + step - text_end[:, None]
        places = torch.where(step < head, step, torch.where(step < text_end[:, None], in_text, in_own))
        h_td = self._entered(state["pool"][places[real]], step[real], floor)
        flat = Flat(lengths, attachment.groups)
        attachment.tokens = flat.tokens
        return decoder.run(h_td[None], step[real][None], range(floor, decoder.layers), instead=flat.attend)[0]

    def _entered(self, stored: Tensor, positions: Tensor, floor: int) -> Tensor:
        """Returns [tokens, d] states at the floor: as stored, or embedded where ids are."""
        return stored if floor else self.decoder.embed_tokens(stored, positions)

    # --- new answers --------------------------------------------------------------------------------------------

    def begin(self, prompt: Prompt, texts: Sequence[Text], most: int) -> tuple[DecoderDraft, Tensor]:
        """Returns a draft that has read head and text of each row, and the tail [s], which is to be read first."""
        decoder = self.decoder
        head_ids, tail_ids, _ = decoder.frame(prompt)
        bodies, _ = token_lists(decoder.tokenizer, [prompt.body(text) for text in texts], prompt.max_tokens)
        ids, real = padded([head_ids + body for body in bodies], tail_ids[0], decoder.device)
        room = ids.shape[1] + len(tail_ids) + most
        check_reach(cast(Any, decoder.model).config, room)
        positions = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
        memory = Memory(record=range(decoder.layers))
        mask = causal_mask(ids.shape[1], ids.device)
        decoder.run(decoder.embed_tokens(ids, positions), positions, range(decoder.layers), mask, memory)
        cache = {layer: (_roomy(keys, room), _roomy(values, room)) for layer, (keys, values) in memory.made.items()}
        seen = torch.zeros(len(ids), room, dtype=torch.bool, device=ids.device)
        seen[:, : ids.shape[1]] = real
        return DecoderDraft(cache, seen, ids.shape[1], real.sum(1)), torch.tensor(tail_ids, device=ids.device)

    def next(self, draft: DecoderDraft, tokens: Tensor) -> Tensor:
        """Returns [b, d] the states that predict the token after these [b, s]."""
        decoder, span, filled = self.decoder, tokens.shape[1], draft.filled
        positions = draft.position[:, None] + torch.arange(span, device=tokens.device)
        own = causal_mask(span, tokens.device).expand(len(tokens), -1, -1, -1)
        mask = torch.cat([draft.seen[:, None, None, :filled].expand(-1, -1, span, -1), own], -1)

        def before(layer: int) -> KeysValues:
            keys, values = draft.cache[layer]
            return keys[:, :, :filled], values[:, :, :filled]

        memory = Memory(before, record=range(decoder.layers))
        h_bsd = decoder.run(decoder.embed_tokens(tokens, positions), positions, range(decoder.layers), mask, memory)
        draft.filled += span
        for layer, made in memory.made.items():
            for stored, new in zip(draft.cache[layer], made, strict=True):
                stored[:, :, filled : draft.filled] = new
        draft.seen[:, filled : draft.filled] = True
        draft.position = draft.position + span
        return cast(Tensor, decoder.norm(h_bsd[:, -1]))


class _Reading:
    """One pass over texts and their answers, below the region and, for an answer span, over the texts inside it.

    Attributes:
        text_floors: of each text, its tokens' states at the floor [t, d], or ids at floor 0 (span 'all').
        own_floors: of each answer, the states of tail and answer at the floor [s, d], or ids at floor 0.
        kv: layer -> keys and values [t, kv heads, head width] of each text (span 'answer').
    """

    def __init__(
        self,
        decoder: Decoder,
        region: Region,
        head_kv: dict[int, KeysValues],
        bodies: list[list[int]],
        own: list[list[int]],
        text_of: list[int],
    ) -> None:
        self.decoder, self.region, self.head_kv = decoder, region, head_kv
        self.bodies, self.own, self.text_of = bodies, own, text_of
        self.floor = region.floor(decoder.layers)
        self.text_floors = [torch.tensor(body, device=decoder.device, dtype=torch.long) for body in bodies]
        self.own_floors = [torch.tensor(tokens, device=decoder.device) for tokens in own]
        layers = range(self.floor, decoder.layers) if region.span == "answer" else range(0)
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
                for some in length_batches([len(self.own[answer]) for answer in members], PREFILL_TOKENS):
                    self._answers([members[i] for i in some], batch, made)
            progress(len(batch))

    def _texts(self, batch: list[int]) -> dict[int, KeysValues]:
        """Runs a batch of texts; returns layer -> keys and values [b, kv heads, t, head width]."""
        decoder, floor, head = self.decoder, self.floor, self._head
        ids, _ = padded([self.bodies[text] for text in batch], 0, decoder.device)
        positions = head + torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
        mask = causal_mask(ids.shape[1], ids.device)
        mask = torch.cat([mask.new_ones(1, 1, ids.shape[1], head), mask], -1)
        memory = Memory(self._before_text(len(batch)), record=range(decoder.layers))
        h_btd = decoder.run(decoder.embed_tokens(ids, positions), positions, range(floor), mask, memory)
        if self.region.span == "all":
            for row, text in enumerate(batch):
                self.text_floors[text] = h_btd[row, : len(self.bodies[text])].clone()
            return memory.made
        decoder.run(h_btd, positions, range(floor, decoder.layers), mask, memory)
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
        ids, _ = padded([self.own[answer] for answer in members], 0, decoder.device)
        positions = (self._head + lengths)[:, None] + torch.arange(ids.shape[1], device=ids.device)
        real = torch.arange(int(made[0][0].shape[2]), device=ids.device) < lengths[:, None]
        head = self._before_text(len(members))

        def before(layer: int) -> KeysValues:
            keys, values = (torch.cat([x, text[rows]], 2) for x, text in zip(head(layer), made[layer], strict=True))
            return keys, values

        mask = _after_text(ids.shape[1], self._head, real)
        h_bsd = decoder.run(decoder.embed_tokens(ids, positions), positions, range(self.floor), mask, Memory(before))
        for row, answer in enumerate(members):
            self.own_floors[answer] = h_bsd[row, : len(self.own[answer])].clone()

    @property
    def _head(self) -> int:
        return self.head_kv[0][0].shape[2]

    def _before_text(self, rows: int) -> Any:
        return lambda layer: tuple(x.expand(rows, -1, -1, -1) for x in self.head_kv[layer])


def _after_text(span: int, head: int, text_real: Tensor) -> Tensor:
    """Returns [b, 1, span, head + t + span] True where a token may look: the head, real text, itself and before."""
    rows = len(text_real)
    own = causal_mask(span, text_real.device).expand(rows, -1, -1, -1)
    text = text_real[:, None, None, :].expand(-1, -1, span, -1)
    return torch.cat([own.new_ones(rows, 1, span, head), text, own], -1)


def _roomy(x: Tensor, room: int) -> Tensor:
    """Returns [b, heads, room, width] with the given columns in front."""
    out = x.new_zeros(*x.shape[:2], room, x.shape[3])
    out[:, :, : x.shape[2]] = x
    return out
