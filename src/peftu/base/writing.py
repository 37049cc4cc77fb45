"""Text that a base writes: many answers in one batch and one cache, each with modules of its own."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.reading import prompt_tokens, reading_limit
from peftu.base.region import Region
from peftu.base.sites import Attachment, Binding, attached
from peftu.data.problem import Text
from peftu.errors import PeftuError

Bind = Callable[[Tensor], Binding | None]
Hear = Callable[[int, str], None]  # of an answer's number, and what is written of it so far


@torch.no_grad()
def write_answers(
    base: FrozenBase,
    prompt: Prompt,
    texts: Sequence[Text],
    most: int,
    region: Region,
    bind: Bind = lambda _: None,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
    hear: Hear | None = None,
) -> list[str]:
    """Returns what is answered to each text.

    A row that has ended leaves the batch. What a row writes does not depend on the other rows.

    Args:
        base: a decoder or an encoder-decoder.
        prompt: the task, without words.
        texts: one for each row.
        most: tokens of an answer at most, end token included.
        region: where the modules act; where that is on the answer alone, equal texts are read once.
        bind: row numbers [g] -> modules in g groups, one for each of these rows.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn from softmax(logits / temperature).
        seeds: of each row's draws; needed where there is a temperature.
        hear: told of each row as it is written.

    Raises:
        PeftuError: the base is an encoder, or cannot look at so many tokens at once.
    """
    family = cast(Any, base.family)
    prompt = family.within(replace(prompt, answer_tokens=most))
    draws = _draws(seeds, most).to(base.device) if temperature else None
    written: list[list[int]] = [[] for _ in texts]
    for rows in _alike(bind(torch.arange(len(texts))), len(texts)):
        _write(base, prompt, texts, most, region, bind, temperature, draws, rows.to(base.device), written, hear)
    return [_decoded(base, tokens) for tokens in written]


def _decoded(base: FrozenBase, tokens: Sequence[int]) -> str:
    return cast(str, base.family.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _alike(binding: Binding | None, rows: int) -> list[Tensor]:
    """Returns row numbers, those with virtual tokens apart from those without."""
    every = torch.arange(rows)
    if binding is None or binding.on is None:
        return [every]
    return [part for part in (every[binding.on], every[~binding.on]) if len(part)]


def _write(
    base: FrozenBase,
    prompt: Prompt,
    texts: Sequence[Text],
    most: int,
    region: Region,
    bind: Bind,
    temperature: float,
    draws: Tensor | None,
    rows: Tensor,
    written: list[list[int]],
    hear: Hear | None,
) -> None:
    """Adds the tokens of these rows' answers to ``written``."""
    writer, family = base.writer, cast(Any, base.family)
    row_texts = [texts[row] for row in rows.tolist()]
    binding = bind(rows)
    if region.span == "all":
        with attached(family.model, binding) as attachment:
            draft, first = writer.begin(prompt, row_texts, most, region, attachment)
    else:
        place = {text: number for number, text in enumerate(dict.fromkeys(row_texts))}
        draft, first = writer.begin(prompt, list(place), most, region, Attachment(None))
        places = torch.tensor([place[text] for text in row_texts], device=base.device)
        draft.keep(places)
        first = first[places]
    tokens, ends = first, torch.tensor(sorted(family.ends), device=base.device)
    for step in range(most):
        with attached(family.model, binding) as attachment:
            hidden_bd = writer.next(draft, tokens, attachment)
        logits_bv = base.logits(hidden_bd)
        chosen = logits_bv.argmax(-1) if draws is None else _drawn(logits_bv / temperature, draws[rows, step])
        going = ~torch.isin(chosen, ends)
        if not going.all():
            kept = going.nonzero().squeeze(1)
            rows, chosen = rows[kept], chosen[kept]
            if not len(rows):
                return
            draft.keep(kept)
            binding = bind(rows)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            written[row].append(token)
            if hear is not None:
                hear(row, _decoded(base, written[row]))
        tokens = chosen[:, None]


def _draws(seeds: Sequence[int], most: int) -> Tensor:
    """Returns [rows, most] numbers in [0, 1), each row's from its own seed."""
    return torch.stack([torch.rand(most, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _drawn(logits_bv: Tensor, draw_b: Tensor) -> Tensor:
    """Returns [b] the tokens at which the cumulative probability passes the draws."""
    reached_bv = logits_bv.double().softmax(-1).cumsum(-1)
    aim = draw_b.double()[:, None] * reached_bv[:, -1:]
    return torch.searchsorted(reached_bv, aim, right=True)[:, 0].clamp(max=logits_bv.shape[1] - 1)


def write(base: FrozenBase, instruction: str, text: str, tokens: int) -> str:
    """Returns what the base writes next when told this: the likeliest token each time, so always the same.

    Args:
        base: a decoder or an encoder-decoder.
        instruction: what to do.
        text: what to do it with.
        tokens: the most that it writes.

    Raises:
        PeftuError: the base is an encoder, or the prompt is longer than it can read.
    """
    limit = reading_limit(base)
    length = len(base.family.reader.bodies([Text(text)], sys.maxsize).lists[0])
    prompt = Prompt(instruction, (), max_tokens=length, answer_tokens=tokens)
    needed = prompt_tokens(base, prompt)
    if limit is not None and needed > limit:
        raise PeftuError(f"base {base.name}: reads {limit} tokens at most, {needed} are asked of it — show it less")
    return " ".join(write_answers(base, prompt, [Text(text)], tokens, base.region(None))[0].split())
