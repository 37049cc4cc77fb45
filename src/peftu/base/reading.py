"""How long a prompt a base can read, texts cut to length, and which tokens of a prompt lie in a region."""

from collections.abc import Sequence
from typing import Any, cast

from peftu.base.families.decoder import Decoder
from peftu.base.families.encoder_decoder import EncoderDecoder
from peftu.base.families.family import context_limit, token_lists
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.errors import PeftuError


def reading_limit(base: FrozenBase) -> int | None:
    """Returns the longest prompt of a base, in tokens; None where it sets no limit.

    Raises:
        PeftuError: the base is an encoder, which reads a text and no prompt.
    """
    if not isinstance(base.family, Decoder | EncoderDecoder):
        raise PeftuError(f"base {base.name}: an encoder reads no prompt — use a decoder or an encoder-decoder")
    return context_limit(cast(Any, base.family.model).config)


def prompt_tokens(base: FrozenBase, prompt: Prompt) -> int:
    """Returns the tokens of a prompt with the longest text that it allows and the longest answer.

    Raises:
        PeftuError: the base is an encoder, which reads a text and no prompt.
    """
    reading_limit(base)
    if isinstance(base.family, Decoder):
        head, tail, words = base.family.frame(prompt)
        return len(head) + prompt.max_tokens + len(tail) + max(map(len, words), default=prompt.answer_tokens)
    tokenizer = cast(Any, base.family).tokenizer
    return len(tokenizer(prompt.lead)["input_ids"]) + prompt.max_tokens


def invocation(base: FrozenBase, prompt: Prompt, region: Region) -> list[int]:
    """Returns a decoder's tokens between text and answer that lie in a region; of another family: none."""
    if not isinstance(base.family, Decoder):
        return []
    _, tail, _ = base.family.frame(prompt)
    return base.family.parted(tail, region)[1]


def clipped(base: FrozenBase, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Returns the texts, those longer than so many tokens cut at the end."""
    if not texts:  # tokenizers take no empty batch
        return []
    tokenizer = cast(Any, base.family).tokenizer
    lists, _ = token_lists(tokenizer, texts, max_tokens + 1)
    return [
        tokenizer.decode(tokens[:max_tokens], skip_special_tokens=True) if len(tokens) > max_tokens else text
        for text, tokens in zip(texts, lists, strict=True)
    ]
