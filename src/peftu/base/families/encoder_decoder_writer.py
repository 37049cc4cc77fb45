"""How encoder-decoders read and write answers: the decoder's tokens are the answer.

Shape letters: n answers, b rows, t text tokens, s decoder tokens, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import EncoderDecoderCache

from peftu.base.answers import Answer, AnswerTokens
from peftu.base.families.encoder_decoder import PREFILL_TOKENS, EncoderDecoder
from peftu.base.families.family import Context, Progress, check_reach, virtual_tokens
from peftu.base.packed import Packed, length_batches, padded, ranges
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.sites import Attachment
from peftu.base.virtual import virtual_prefixes, virtual_states
from peftu.data.problem import Text


@dataclass
class EncoderDecoderDraft:
    """Answers being written by an encoder-decoder; all rows have virtual tokens, or none has.

    Attributes:
        encoded: [b, t, d] the encoded texts.
        real: [b, t] True at real text tokens.
        region: where modules act.
        cache: the decoder's keys and values, of its own tokens and of the encoded text; None before the first token.
        filled: decoder tokens read so far, the same for all rows.
        virtual: virtual tokens that stand before them in the region's layers.
    """

    encoded: Tensor
    real: Tensor
    region: Region
    cache: EncoderDecoderCache | None = None
    filled: int = 0
    virtual: int = 0

    def keep(self, rows: Tensor) -> None:
        """Makes these rows, in this order, the draft's rows; one may stand twice."""
        if self.cache is not None:
            self.cache.batch_select_indices(rows)
        self.encoded, self.real = self.encoded[rows], self.real[rows]


class EncoderDecoderWriter:
    """Answers through an encoder-decoder."""

    def __init__(self, family: EncoderDecoder) -> None:
        self.family = family
        self.vocabulary = int(family.head.weight.shape[0])

    # --- given answers ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(
        self, prompt: Prompt, texts: Sequence[Text], answers: Sequence[Answer], region: Region, progress: Progress
    ) -> Context:
        """Returns what the region needs of each answer.

        For span 'answer': each text's cross-attention keys and values in the region, and the decoder's states at its
        floor. For span 'all': the encoder's states at its floor. At floor 0, token ids are the state.
        """
        family, device = self.family, self.family.device
        reading = family.reader.read(prompt, texts)
        lists, (cut, beside_cut) = reading.lists, reading.cuts
        words = family.reader.alone([answer.words for answer in answers])
        target = AnswerTokens.of(words, family.reader.end(prompt, family.ends), prompt.answer_tokens)
        answer_ids = [[*family.opening, *tokens[:-1]] for tokens in target.lists]
        answer_floors = [torch.tensor(tokens, device=device) for tokens in answer_ids]
        state: dict[Any, Any] = {
            "text": torch.tensor([answer.text for answer in answers]),
            "target": target.packed(device),
        }
        layers, all_layers = len(family.decoder.layers), range(len(family.encoder.layers))
        floor = region.floor(layers if region.answering else len(all_layers))
        by_text: dict[int, list[int]] = {}
        for number, answer in enumerate(answers):
            by_text.setdefault(answer.text, []).append(number)
        nothing: list[Tensor] = [torch.empty(0)] * len(texts)
        gathered: dict[Any, list[Tensor]] = {}
        if region.span == "all" and floor == 0:
            state["ids"] = Packed.of([torch.tensor(tokens, device=device) for tokens in lists])
        else:
            for batch in length_batches([len(tokens) for tokens in lists], PREFILL_TOKENS):
                ids, real = padded([lists[text] for text in batch], 0, device)
                h_btd = family.encoder.words(ids)
                if region.span == "all":
                    made: dict[Any, Tensor] = {"floors": family.encode(h_btd, real, range(floor), final=False)}
                else:
                    encoded = family.encode(h_btd, real, all_layers)
                    made = {}
                    for layer in range(floor, layers):
                        made["k", layer], made["v", layer] = family.decoder.cross(encoded, layer)
                    members = [answer for text in batch for answer in by_text.get(text, [])]
                    if floor:
                        self._to_floor(members, batch, encoded, real, answer_ids, floor, answers, answer_floors)
                for key, value in made.items():
                    items = gathered.setdefault(key, list(nothing))
                    for row, text in enumerate(batch):
                        items[text] = value[row, : len(lists[text])].clone()
                progress(len(batch))
        state |= {key: Packed.of(items) for key, items in gathered.items()}
        state["own"] = Packed.of(answer_floors)
        longest, spoken = max(map(len, lists)), max(map(len, answer_ids))
        check_reach(family.config, max(longest, spoken))
        span = spoken + (longest if region.span == "all" else 0)
        tokens = sum(map(len, lists)) + sum(map(len, answer_ids))
        cuts = {"beside_cut": beside_cut, "answers_cut": target.cut}
        longest = spoken if region.answering else longest
        return Context(region, prompt, (), len(answers), cut, tokens, span, state, longest, **cuts)

    def _to_floor(
        self,
        members: list[int],
        batch: list[int],
        encoded: Tensor,
        real: Tensor,
        answer_ids: list[list[int]],
        floor: int,
        answers: Sequence[Answer],
        floors: list[Tensor],
    ) -> None:
        """Runs some answers through the decoder's layers below the region, and keeps their states."""
        family = self.family
        place = {text: row for row, text in enumerate(batch)}
        for some in length_batches([len(answer_ids[answer]) for answer in members], PREFILL_TOKENS):
            chosen = [members[i] for i in some]
            rows = torch.tensor([place[answers[answer].text] for answer in chosen], device=family.device)
            ids, _ = padded([answer_ids[answer] for answer in chosen], 0, family.device)
            h_bsd = family.decode(family.decoder.words(ids), range(floor), real[rows], encoded[rows], None)
            for row, answer in enumerate(chosen):
                floors[answer] = h_bsd[row, : len(answer_ids[answer])].clone()

    def hidden(self, context: Context, rows: Tensor, attachment: Attachment) -> Tensor:
        """Returns [tokens, d] the decoder's states that predict the answers' tokens, scaled for the output matrix."""
        family, state, layers = self.family, context.state, len(self.family.decoder.layers)
        virtual, prefixes = virtual_tokens(family.config, context, len(rows), attachment)
        places, _ = state["own"].places(rows)
        h_bsd = state["own"].values[places]
        texts, before = state["text"][rows], torch.zeros_like(rows)
        if context.region.answering:
            floor = context.region.floor(layers)
            if floor == 0:
                h_bsd = family.decoder.words(h_bsd)
            if virtual is not None:
                h_bsd, before = virtual.in_front(h_bsd), virtual.counts
            h_bsd = family.decode_span(state, texts, h_bsd, floor, prefixes)
        else:
            encoded, real = family.encoded_texts(context, texts, virtual)
            cache = None if prefixes is None else family.cache(prefixes)
            h_bsd = family.decoder.words(h_bsd)
            h_bsd = family.decode(h_bsd, range(layers), real, encoded, cache, prefixes=prefixes)
        opening = len(family.opening) - 1
        starts = torch.arange(len(rows)) * h_bsd.shape[1] + before + opening
        predicts, _ = ranges(starts, state["own"].lengths[rows] - opening, h_bsd.device)
        return family.decoder.leave(h_bsd).flatten(0, 1)[predicts] * family.head_scale

    # --- new answers --------------------------------------------------------------------------------------------

    def begin(
        self, prompt: Prompt, texts: Sequence[Text], most: int, region: Region, attachment: Attachment
    ) -> tuple[EncoderDecoderDraft, Tensor]:
        """Returns a draft that has encoded each row's text, and the decoder's start tokens [b, s]."""
        family, layers = self.family, len(self.family.encoder.layers)
        lists = family.reader.read(prompt, texts).lists
        check_reach(family.config, max(len(family.opening) + most, *map(len, lists)))
        ids, real = padded(lists, 0, family.device)
        h_btd = family.encoder.words(ids)
        virtual = virtual_states(attachment.binding, len(lists))
        if virtual is None:
            encoded = family.encode(h_btd, real, range(layers))
        else:
            floor = region.floor(layers)
            h_btd = virtual.in_front(family.encode(h_btd, real, range(floor), final=False))
            real = pad(real, (virtual.count, 0), value=True)
            encoded = family.encode(h_btd, real, range(floor, layers))
        return EncoderDecoderDraft(encoded, real, region), torch.tensor(
            [family.opening] * len(lists), device=family.device
        )

    def next(self, draft: EncoderDecoderDraft, tokens: Tensor, attachment: Attachment) -> Tensor:
        """Returns [b, d] the states that predict the token after these [b, s]."""
        family, layers = self.family, len(self.family.decoder.layers)
        floor, prefixes = draft.region.floor(layers), virtual_prefixes(attachment.binding, len(tokens))
        states = virtual_states(attachment.binding, len(tokens)) if draft.region.answering else None
        draft.cache = draft.cache or family.cache(prefixes)
        seen, cache, filled = (draft.real, draft.encoded), draft.cache, draft.filled
        h_bsd = family.decode(family.decoder.words(tokens), range(floor), *seen, cache, filled)
        if states is not None and not filled:
            h_bsd, draft.virtual = states.in_front(h_bsd), states.count
        past = filled + draft.virtual if filled else 0
        h_bsd = family.decode(h_bsd, range(floor, layers), *seen, cache, past, prefixes)
        draft.filled += tokens.shape[1]
        return family.decoder.leave(h_bsd[:, -1]) * family.head_scale
