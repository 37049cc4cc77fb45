"""Text that a base itself writes."""

from typing import Any, cast

import torch

from peftu.base.families.decoder import Decoder
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.reading import prompt_tokens, reading_limit
from peftu.errors import PeftuError


@torch.no_grad()
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
    family = cast(Any, base.family)
    prompt, limit = Prompt(instruction, (), max_tokens=0), reading_limit(base)
    body: list[int] = family.tokenizer(text, add_special_tokens=False)["input_ids"]
    if isinstance(base.family, Decoder):
        head, tail, _ = base.family.frame(prompt)
        ids = [*head, *body, *tail]
    else:
        ids = family.tokenizer(f"{prompt.lead}{text}")["input_ids"]
    needed = prompt_tokens(base, prompt) + len(body) + tokens
    if limit is not None and needed > limit:
        raise PeftuError(f"base {base.name}: reads {limit} tokens at most, {needed} are asked of it — show it less")
    given = torch.tensor([ids], device=base.device)
    written = family.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=family.tokenizer.eos_token_id,
    )[0]
    own = written[len(ids) :] if isinstance(base.family, Decoder) else written
    return " ".join(family.tokenizer.decode(own, skip_special_tokens=True).split())
